//! What ranks do together when all is well.

use crate::actor::{Actor, pass_id, world};

/// Several communicators after one another, every type, sizes from nothing to many chunks; the sums are checked bit by bit by the actors.
#[test]
fn three_processes_sum_and_broadcast_every_type() {
    let mut actors = world("together", 3, |_| Vec::new());
    let mut ids = Vec::new();
    for last in ["finalized", "finalized", "finalized", "done"] {
        ids.push(pass_id(&mut actors));
        actors.iter_mut().for_each(|actor| assert_eq!(actor.hear(), last));
    }
    ids.dedup();
    assert_eq!(ids.len(), 4);
    actors.into_iter().for_each(Actor::succeed);
}

#[test]
fn worlds_of_other_sizes() {
    for size in [1, 2, 8] {
        let mut actors = world("together_once", size, |_| Vec::new());
        pass_id(&mut actors);
        actors.iter_mut().for_each(|actor| assert_eq!(actor.hear(), "finalized", "in a world of {size}"));
        actors.into_iter().for_each(Actor::succeed);
    }
}

#[test]
fn a_panic_in_a_group_closes_it() {
    let mut actors = world("panic_in_a_group", 1, |_| Vec::new());
    pass_id(&mut actors);
    assert_eq!(actors[0].hear(), "fine");
}
