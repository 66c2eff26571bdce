//! `hash-password`: a password from a terminal, unseen, or else from the first line of standard input, becomes its hash.

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::Failure;
use crate::auth;
use crate::telemetry::with_causes;

/// Longest line read; bcrypt itself takes 72 bytes, and what is longer is refused there.
const MAX_LINE: u64 = 4096;

/// Flags of `hash-password`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct HashPasswordArguments {
    /// How much a check costs: 10 is about 70 ms of a core, each step more doubles it.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(4..=16))]
    pub cost: u32,
}

/// No password came.
#[derive(Debug, thiserror::Error)]
enum PasswordError {
    /// Nothing, or an empty line.
    #[error("the password is empty")]
    Empty,
    /// The second input was another than the first.
    #[error("the two passwords differ")]
    Differ,
    /// Bytes that are no UTF-8.
    #[error("the password can't be read")]
    Input(#[source] io::Error),
}

pub(super) fn run(arguments: &HashPasswordArguments) -> Result<(), Failure> {
    let password = read().map_err(|error| Failure::usage(with_causes(&error)))?;
    let hash = auth::hash_password(&password, arguments.cost).map_err(|error| Failure::usage(error.to_string()))?;
    writeln!(io::stdout(), "{hash}")?;
    Ok(())
}

/// Asks on a terminal (twice), else reads one line.
fn read() -> Result<Zeroizing<String>, PasswordError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return line(stdin.lock());
    }
    let _hidden = Hidden::new(&stdin).map_err(PasswordError::Input)?;
    let ask = |question: &str| {
        let mut terminal = io::stderr();
        // A prompt that can't be shown is no reason to refuse the password.
        let _ = write!(terminal, "{question}: ").and_then(|()| terminal.flush());
        let answer = line(stdin.lock());
        let _ = writeln!(terminal);
        answer
    };
    let password = ask("Password")?;
    if *password == *ask("Again")? { Ok(password) } else { Err(PasswordError::Differ) }
}

/// The first line without its end.
fn line(input: impl BufRead) -> Result<Zeroizing<String>, PasswordError> {
    let mut text = Zeroizing::new(String::new());
    input.take(MAX_LINE).read_line(&mut text).map_err(PasswordError::Input)?;
    let length = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(length);
    if text.is_empty() { Err(PasswordError::Empty) } else { Ok(text) }
}

/// A terminal that doesn't show what is typed, until this is dropped.
struct Hidden<'a> {
    stdin: &'a io::Stdin,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(stdin: &'a io::Stdin) -> io::Result<Self> {
        let before = tcgetattr(stdin.as_fd())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin.as_fd(), OptionalActions::Flush, &quiet)?;
        Ok(Self { stdin, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // Nothing is left to do if it fails: the shell sets its terminal up anew.
        let _ = tcsetattr(self.stdin.as_fd(), OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_loses_its_end_and_nothing_else() {
        for (input, password) in
            [("secret\n", "secret"), ("secret\r\n", "secret"), (" a b ", " a b "), ("one\ntwo\n", "one")]
        {
            assert_eq!(line(input.as_bytes()).unwrap().as_str(), password);
        }
        for input in ["", "\n", "\r\n"] {
            assert!(matches!(line(input.as_bytes()), Err(PasswordError::Empty)));
        }
        assert!(matches!(line(&b"\xff\n"[..]), Err(PasswordError::Input(_))));
    }
}
