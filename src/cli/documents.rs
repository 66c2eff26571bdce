//! The commands that documents tell an administrator to type.

use clap::Parser as _;

use super::Arguments;

const CLOSED_NETWORK: &str = include_str!("../../docs/CLOSED-NETWORK.md");

/// The commands of the blocks of a document, each on one line.
fn commands(document: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let (mut is_inside, mut goes_on) = (false, false);
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            is_inside = line.contains("console");
            goes_on = false;
            continue;
        }
        let text = line.trim();
        let (text, more) = text.strip_suffix('\\').map_or((text, false), |text| (text, true));
        match (is_inside, goes_on, text.strip_prefix("$ ")) {
            (true, true, _) => {
                if let Some(command) = commands.last_mut() {
                    command.push_str(text);
                }
            }
            (true, false, Some(command)) => commands.push(command.to_owned()),
            (true, false, None) | (false, ..) => {}
        }
        goes_on = is_inside && more;
    }
    commands.retain(|command| command.starts_with("d8-registry "));
    commands
}

#[test]
fn every_command_of_the_way_into_a_closed_network_is_one() {
    let commands = commands(CLOSED_NETWORK);
    assert!(commands.len() >= 12, "{commands:#?}");
    for command in commands {
        Arguments::try_parse_from(command.split_whitespace()).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
}
