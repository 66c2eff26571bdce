//! The README's tables against the code.

use std::collections::BTreeSet;
use std::path::Path;

use d8_registry::{cli, config};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The words in code quotes in the first cells of the table below the header row that begins with `header`.
fn first_cells(header: &str) -> BTreeSet<String> {
    let text = readme();
    let rows = text.lines().skip_while(|line| !line.starts_with(&format!("| {header} |"))).skip(2);
    let cells: BTreeSet<String> = rows
        .take_while(|line| line.starts_with('|'))
        .flat_map(|row| {
            let cell = row.split('|').nth(1).unwrap().to_owned();
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert!(!cells.is_empty(), "no table {header}");
    cells
}

/// The row whose first cell names `key`; one row may name several.
fn row(key: &str) -> Option<String> {
    let text = readme();
    text.lines()
        .find(|line| line.starts_with('|') && line.split('|').nth(1).unwrap().contains(&format!("`{key}`")))
        .map(str::to_owned)
}

#[test]
fn every_key_is_there_and_no_other() {
    let keys: BTreeSet<String> = config::KEYS.iter().map(|info| info.key.to_owned()).collect();
    assert_eq!(first_cells("key"), keys);
}

#[test]
fn every_key_says_when_a_change_takes_effect() {
    for info in config::KEYS {
        let row = row(info.key).unwrap();
        let said = row.split('|').nth(3).unwrap().trim().to_owned();
        assert_eq!(said, format!("{:?}", info.change).to_lowercase(), "{}", info.key);
    }
}

/// The second column is the value that is in force while the key is absent.
#[test]
fn every_default_is_the_one_in_force() {
    let machine = config::Machine { cores: 2, terminal: false };
    // A folder of users, so that nothing is open and `auth.anonymous` has its own default.
    let config =
        config::Config::parse("auth: { usersDir: /users }", None, &config::Overrides::default(), machine).unwrap();
    let mut compared = 0;
    for setting in config.settings() {
        let row = row(&setting.key).or_else(|| row(&format!("{}[]", setting.key)));
        let row = row.unwrap_or_else(|| panic!("no row {}", setting.key));
        let said = row.split('|').nth(2).unwrap().trim();
        // These follow the machine, are in words, or were set above.
        let in_words = ["limits.workerThreads", "limits.passwordChecks", "auth.usersDir", "auth.token.signingKeyFile"];
        if in_words.contains(&setting.key.as_str()) {
            continue;
        }
        let value = setting.value.as_str();
        let right = match value {
            "" | "-" => ["-", "none"].contains(&said),
            _ => said == value || said.split('`').nth(1) == Some(value),
        };
        assert!(right, "{}: the README says {said}, the code {value}", setting.key);
        compared += 1;
    }
    assert!(compared > 30, "{compared}");
}

#[test]
fn every_flag_is_there_and_no_other() {
    fn collect(command: &clap::Command, flags: &mut BTreeSet<String>) {
        flags
            .extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")));
        for inner in command.get_subcommands() {
            collect(inner, flags);
        }
    }
    let mut description = cli::description();
    description.build();
    let mut flags = BTreeSet::new();
    collect(&description, &mut flags);
    assert_eq!(first_cells("flag"), flags);
}

#[test]
fn every_exit_code_is_there_and_no_other() {
    let codes: BTreeSet<String> = cli::EXIT_CODES.iter().map(ToString::to_string).collect();
    assert_eq!(first_cells("exit code"), codes);
}
