//! Which hosts a generation may use.

use std::collections::BTreeSet;

use super::Options;

/// The hosts of a launch, and those of them that do not answer.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    all: Vec<String>,
    nodes: usize,
    least: usize,
    lost: BTreeSet<String>,
    /// Those of the present generation.
    pub(super) placed: Vec<String>,
}

impl Hosts {
    pub(super) fn new(options: &Options) -> Self {
        let (nodes, least) = (options.nodes, options.min_nodes);
        Self { all: options.hosts.clone(), nodes, least, lost: BTreeSet::new(), placed: Vec::new() }
    }

    /// Whether `host` may be lost at all: the only host there is cannot.
    pub(super) fn knows(&self, host: &str) -> bool {
        self.all.iter().any(|known| known == host)
    }

    /// Takes note that `host` does not answer; false when that was known.
    pub(super) fn lose(&mut self, host: &str) -> bool {
        self.knows(host) && self.lost.insert(host.to_owned())
    }

    /// Takes note that `host` answers; false when that was known.
    pub(super) fn find(&mut self, host: &str) -> bool {
        self.lost.remove(host)
    }

    /// Those that do not answer.
    pub(super) fn lost(&self) -> &BTreeSet<String> {
        &self.lost
    }

    /// The hosts for a new generation, if enough of them answer (SV-7).
    pub(super) fn place(&self) -> Option<Vec<String>> {
        let usable = self.all.iter().filter(|host| !self.lost.contains(*host));
        let hosts: Vec<String> = usable.take(self.nodes).cloned().collect();
        (self.all.is_empty() || hosts.len() >= self.least.max(1)).then_some(hosts)
    }

    /// Whether the next generation would have more hosts than the present one.
    pub(super) fn could_grow(&self) -> bool {
        self.place().is_some_and(|hosts| hosts.len() > self.placed.len())
    }
}
