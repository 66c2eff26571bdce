//! What has to hold of a store that a server has closed.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use d8_registry::oci::Algorithm;

/// All files below a folder, which may be missing.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Every content is what its name says and somebody's, the use that was noted is their sum, and no temporary file is
/// left. Uploads in progress may be there.
pub(crate) fn assert_store_is_tidy(data: &Path) {
    let mut used = 0;
    for algorithm in Algorithm::ALL {
        for path in files_below(&data.join("blobs").join(algorithm.as_str())) {
            let content = std::fs::read(&path).unwrap();
            let hex = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(algorithm.digest(&content).hex(), hex);
            assert!(std::fs::metadata(&path).unwrap().nlink() > 1, "{hex} is nobody's");
            used += content.len();
        }
    }
    assert_eq!(std::fs::read_to_string(data.join("usage")).unwrap().trim(), used.to_string());
    let left = files_below(&data.join("tmp"));
    assert!(left.is_empty(), "left behind: {left:?}");
}
