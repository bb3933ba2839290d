//! What would be on a disk after a power cut.
//!
//! The strictest reading of POSIX: the content of a file is what it was when the file was last synced, and a folder has the entries that
//! it had when the folder was last synced. Whatever was done since may have got to the disk, in part or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::StdRng;

use super::trace::{Action, File};

/// A folder as programs see it, and what of it is safe.
pub struct Disk {
    nodes: Vec<Node>,
    open: HashMap<File, usize>,
    pub ignored: Ignored,
}

/// Which syncs have no effect: what the disk of a program is like that forgets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    Nothing,
    SyncsOfFiles,
    SyncsOfFolders,
    AllSyncs,
}

enum Node {
    File { now: Vec<u8>, safe: Vec<u8> },
    Folder { now: Entries, safe: Entries },
}

type Entries = BTreeMap<String, usize>;

/// Path and content of each file, `None` for a folder.
type Survivors = BTreeMap<PathBuf, Option<Vec<u8>>>;

const ROOT: usize = 0;

impl Disk {
    /// An empty folder, whose own existence is safe.
    pub fn new(ignored: Ignored) -> Self {
        Self { nodes: vec![Self::folder()], open: HashMap::new(), ignored }
    }

    fn folder() -> Node {
        Node::Folder { now: Entries::new(), safe: Entries::new() }
    }

    /// Does what was done. Returns whether a power cut after it may leave something else than one before it.
    pub fn apply(&mut self, action: &Action) -> bool {
        match action {
            Action::Open { file, path, empties } => return self.open(*file, path, *empties),
            Action::Close { file } => {
                self.open.remove(file);
                return false;
            }
            Action::Write { file, offset, bytes } => self.write(*file, *offset, bytes),
            Action::Resize { file, length } => self.content(*file).into_iter().for_each(|now| now.resize(*length, 0)),
            Action::Sync { file } => self.sync(*file),
            Action::Rename { from, to } => {
                let node = self.remove(from);
                self.insert(to, node);
            }
            Action::Link { from, to } => {
                let node = self.find(from).unwrap();
                self.insert(to, node);
            }
            Action::Remove { path } => drop(self.remove(path)),
            Action::MakeFolder { path } => {
                let node = self.add(Self::folder());
                self.insert(path, node);
            }
        }
        true
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn open(&mut self, file: File, path: &Path, empties: bool) -> bool {
        let found = self.find(path);
        // What was there before somebody looked is as unsafe as what is new, and is only read.
        let node = found.unwrap_or_else(|| {
            let node = self.add(Node::File { now: Vec::new(), safe: Vec::new() });
            self.insert(path, node);
            node
        });
        self.open.insert(file, node);
        if empties && let Some(now) = self.content(file) {
            now.clear();
        }
        found.is_none() || empties
    }

    /// The content of an open file; nothing for a folder, and for files that were open before.
    fn content(&mut self, file: File) -> Option<&mut Vec<u8>> {
        match &mut self.nodes[*self.open.get(&file)?] {
            Node::File { now, .. } => Some(now),
            Node::Folder { .. } => None,
        }
    }

    fn write(&mut self, file: File, offset: usize, bytes: &[u8]) {
        let Some(now) = self.content(file) else { return };
        now.resize(now.len().max(offset + bytes.len()), 0);
        now[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn sync(&mut self, file: File) {
        let Some(node) = self.open.get(&file) else { return };
        let ignored = self.ignored;
        match &mut self.nodes[*node] {
            Node::File { now, safe } if !matches!(ignored, Ignored::SyncsOfFiles | Ignored::AllSyncs) => safe.clone_from(now),
            Node::Folder { now, safe } if !matches!(ignored, Ignored::SyncsOfFolders | Ignored::AllSyncs) => safe.clone_from(now),
            _ => {}
        }
    }

    fn find(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(ROOT, |node, name| match &self.nodes[node] {
            Node::Folder { now, .. } => now.get(name.to_str()?).copied(),
            Node::File { .. } => None,
        })
    }

    /// The entries of the folder that `path` is in, and its name there. A folder that nobody was seen to make was there before, and is as
    /// unsafe as what is new.
    fn entries(&mut self, path: &Path) -> (&mut Entries, String) {
        let parent = path.parent().unwrap();
        let folder = self.find(parent).unwrap_or_else(|| {
            let node = self.add(Self::folder());
            self.insert(parent, node);
            node
        });
        let Node::Folder { now, .. } = &mut self.nodes[folder] else { panic!("{}: in a file", path.display()) };
        (now, path.file_name().unwrap().to_str().unwrap().to_owned())
    }

    fn insert(&mut self, path: &Path, node: usize) {
        let (entries, name) = self.entries(path);
        entries.insert(name, node);
    }

    fn remove(&mut self, path: &Path) -> usize {
        let (entries, name) = self.entries(path);
        entries.remove(&name).unwrap_or_else(|| panic!("{}: removed, and nobody has made it", path.display()))
    }

    /// Writes what is left of `part` after a power cut now into `folder`: nothing that was not synced, or, by chance, some of it.
    pub fn cut(&self, part: &Path, folder: &Path, mut chance: Option<&mut StdRng>) {
        let mut survivors = Survivors::new();
        self.survive(ROOT, Path::new(""), part, &mut chance, &mut survivors);
        for (path, content) in survivors {
            match content {
                Some(content) => fs::write(folder.join(path), content).unwrap(),
                None => fs::create_dir_all(folder.join(path)).unwrap(),
            }
        }
    }

    fn survive(&self, node: usize, path: &Path, part: &Path, chance: &mut Option<&mut StdRng>, survivors: &mut Survivors) {
        if !path.starts_with(part) && !part.starts_with(path) {
            return;
        }
        match &self.nodes[node] {
            Node::File { now, safe } => {
                survivors.insert(path.to_owned(), Some(content(now, safe, chance)));
            }
            Node::Folder { now, safe } => {
                survivors.insert(path.to_owned(), None);
                let names: BTreeSet<&String> = now.keys().chain(safe.keys()).collect();
                for name in names {
                    let newer = chance.as_mut().is_some_and(|random| random.random());
                    if let Some(node) = if newer { now } else { safe }.get(name) {
                        self.survive(*node, &path.join(name), part, chance, survivors);
                    }
                }
            }
        }
    }
}

/// What is left of a file: its synced content, the newer one, or something of both.
fn content(now: &[u8], safe: &[u8], chance: &mut Option<&mut StdRng>) -> Vec<u8> {
    let Some(random) = chance.as_mut().filter(|_| now != safe) else { return safe.to_vec() };
    match random.random_range(0..4) {
        0 => safe.to_vec(),
        1 => now.to_vec(),
        2 => now[..random.random_range(0..=now.len())].to_vec(),
        // Its size got there, and its blocks did not.
        _ => vec![0; now.len()],
    }
}
