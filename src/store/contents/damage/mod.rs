//! Contents that are known to be damaged. Damage is a property of the digest, because every repository that has a content
//! links the same file: renaming one name mends nothing, and a stored content is never opened for writing.
//!
//! The list says which file of a digest is damaged, by its inode. A file on it is absent everywhere; a name that leads to
//! another inode is whole. On the list comes what failed its hash, and what could not be read twice, 10 s apart, while
//! other files could. A length that differs from a descriptor is a reason to hash, no more (`examine`). More than
//! 16 files within 10 minutes are a fault of the disk, not of digests: nothing more goes on the list then.
//!
//! On disk the list is the directory `damaged/` itself (`directory`): an entry is a further name of the damaged file, so it is
//! durable without a format that could be misread, an inode on it can't become another file's, and a backup that keeps
//! links keeps it. Repair is a new content under the digest's name (`add` in `files`); the other names are linked to
//! it by whoever knows them (`Contents::relink`), and the entry goes after the last.

mod condemn;
pub(in crate::store) mod directory;
mod examine;
pub(in crate::store) mod list;
mod relink;
