//! The limit of open files: a registry holds one per connection and one per download.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit of open files before and after; `None` stands for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// As the process was started with.
    pub before: Option<u64>,
    /// As it is now.
    pub after: Option<u64>,
}

/// Raises the soft limit of open files to the hard one. Called once, before the first socket.
///
/// # Errors
/// What the system said; the old limit stays.
pub fn raise_open_files() -> std::io::Result<OpenFiles> {
    let Rlimit { current: before, maximum } = getrlimit(Resource::Nofile);
    if before == maximum {
        return Ok(OpenFiles { before, after: before });
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(OpenFiles { before, after: getrlimit(Resource::Nofile).current })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_reaches_the_hard_one() {
        let raised = raise_open_files().unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(raised.after, current);
        assert_eq!(current, maximum);
        assert_eq!(raise_open_files().unwrap().before, maximum);
    }
}
