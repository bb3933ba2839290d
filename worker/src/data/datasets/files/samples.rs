//! Data sets of files: which of them make up each member.

use super::super::{Contents, ImportError, Importer, Member, Sample};
use super::Files;
use bytes::Bytes;

/// Files, and the members that they make up.
pub(in super::super) struct Members {
    files: Files,
    members: Vec<Member>,
}

impl Members {
    /// `found` says which files make up each member, in an order of the caller's. Also returns the order in which the members are kept:
    /// the caller's, but in streams that of the archive.
    pub(in super::super) fn arrange(mut files: Files, found: Vec<(Member, Vec<usize>)>) -> (Self, Vec<usize>) {
        let (members, samples): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        let order = files.arrange(samples);
        let members = order.iter().map(|&at| members[at].clone()).collect();
        (Self { files, members }, order)
    }

    /// Where the files of a member are, for messages.
    pub(in super::super) fn file(&self, member: usize, file: usize) -> String {
        self.files.name_url(self.files.sample(member)[file])
    }
}

/// A data set of files. All of [`Importer`] but what is in them follows from that.
pub(in super::super) trait FileImporter: Send + Sync {
    /// Its members.
    fn members(&self) -> &Members;
    /// What the images come with of a split to which this member belongs.
    fn contents(&self, member: usize) -> Contents;
    /// The image of a member, from the bytes of its files.
    ///
    /// # Errors
    /// What cannot be decoded, named.
    fn decode(&self, member: usize, bytes: &[Bytes]) -> Result<Sample, ImportError>;
}

impl<T: FileImporter> Importer for T {
    fn url(&self) -> String {
        FileImporter::members(self).files.url()
    }

    fn contents(&self, member: usize) -> Contents {
        FileImporter::contents(self, member)
    }

    fn members(&self) -> &[Member] {
        &FileImporter::members(self).members
    }

    fn fetch(&self, members: &[usize]) -> Result<Vec<Vec<Bytes>>, ImportError> {
        FileImporter::members(self).files.fetch(members)
    }

    fn decode(&self, member: usize, bytes: &[Bytes], _frame: usize) -> Result<Sample, ImportError> {
        FileImporter::decode(self, member, bytes)
    }
}
