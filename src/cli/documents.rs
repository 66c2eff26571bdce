//! The commands that documents tell an administrator to type.

use clap::{CommandFactory as _, Parser as _};

use super::Arguments;

/// By name and text; of each the number of commands that it has at least.
const DOCUMENTS: [(&str, &str, usize); 6] = [
    ("README", include_str!("../../README.md"), 0),
    ("CLOSED-NETWORK", include_str!("../../docs/CLOSED-NETWORK.md"), 12),
    ("INSTALL", include_str!("../../docs/INSTALL.md"), 15),
    ("RUNBOOK", include_str!("../../docs/RUNBOOK.md"), 0),
    ("SWITCHING", include_str!("../../docs/SWITCHING.md"), 0),
    ("UPSTREAMS", include_str!("../../docs/UPSTREAMS.md"), 0),
];

/// The lines of the console blocks of a document, those that go on joined; without prompt.
fn typed(document: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
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
                if let Some(command) = lines.last_mut() {
                    command.push_str(text);
                }
            }
            (true, false, Some(command)) => lines.push(command.to_owned()),
            // What an earlier line opened: a pipe, a container's command.
            (true, false, None) => lines.push(text.to_owned()),
            (false, ..) => {}
        }
        goes_on = is_inside && more;
    }
    lines
}

/// The words of a line of a shell; what is in single quotes is one of them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut is_quoted) = (vec![String::new()], false);
    for letter in line.chars() {
        match letter {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Ours among the commands of a line: from the program's name to what ends a command of a shell.
fn ours(line: &str) -> Vec<Vec<String>> {
    let subcommands: Vec<String> =
        Arguments::command().get_subcommands().map(|one| one.get_name().to_owned()).collect();
    let words = words(line);
    let begins = |at: &usize| {
        let is_named = words[*at] == "d8-registry" || words[*at].ends_with("/d8-registry");
        is_named
            && words
                .get(at + 1)
                .is_some_and(|word| subcommands.iter().any(|name| word.trim_end_matches([')', '"']) == name))
    };
    let command = |at: usize| {
        let of_shell = |word: &String| ["|", ">", "<", "&&", "||", ";"].contains(&word.as_str());
        let until = words[at..].iter().position(of_shell).map_or(words.len(), |more| at + more);
        words[at..until].iter().map(|word| word.trim_end_matches([')', '"']).to_owned()).collect()
    };
    (0..words.len()).filter(begins).map(command).collect()
}

#[test]
fn every_command_that_a_document_has_in_a_block_is_one() {
    for (name, document, least) in DOCUMENTS {
        let commands: Vec<Vec<String>> = typed(document).iter().flat_map(|line| ours(line)).collect();
        assert!(commands.len() >= least, "{name} has {}: {commands:#?}", commands.len());
        for command in commands {
            Arguments::try_parse_from(&command).unwrap_or_else(|error| panic!("{name}: {command:?}: {error}"));
        }
    }
}

#[test]
fn every_flag_that_a_document_names_with_its_command_is_one() {
    let mut found = 0;
    for (name, document, _) in DOCUMENTS {
        let spans = document.split('`').skip(1).step_by(2).filter(|span| span.starts_with("d8-registry "));
        for span in spans {
            let mut command = &Arguments::command();
            let mut flags = Vec::new();
            for word in span.split_whitespace().skip(1) {
                match command.find_subcommand(word) {
                    Some(sub) if flags.is_empty() => command = sub,
                    _ if word.starts_with("--") => flags.push(word.trim_start_matches("--")),
                    _ => {}
                }
            }
            assert!(command.get_name() != "d8-registry", "{name}: {span}: no command of ours");
            for flag in flags {
                let has = command.get_arguments().any(|one| one.get_long() == Some(flag));
                assert!(has, "{name}: {span}: {} has no --{flag}", command.get_name());
                found += 1;
            }
        }
    }
    assert!(found >= 10, "{found}");
}

#[test]
fn a_command_is_found_behind_others_and_up_to_what_ends_it() {
    let found = |line| ours(line).into_iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(found("setpriv --x d8-registry serve --give-way"), ["d8-registry serve --give-way"]);
    assert_eq!(found("a=\"$(printf x | d8-registry hash-password)\""), ["d8-registry hash-password"]);
    assert_eq!(
        found("/usr/bin/d8-registry gc > out && d8-registry scrub"),
        ["/usr/bin/d8-registry gc", "d8-registry scrub"]
    );
    assert_eq!(found("helm install d8-registry deploy/helm/d8-registry"), Vec::<String>::new());
    assert_eq!(words("a 'b c' d"), ["a", "b c", "d"]);
}
