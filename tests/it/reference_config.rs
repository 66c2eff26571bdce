//! The reference of configuration and command line, and the schema, held against the code and against examples.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use d8_registry::cli;
use d8_registry::config::{self, Change, Config, DefaultValue, KeyInfo, Machine, Overrides};
use serde_json::Value;

use crate::reference::generated;

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_keys_are_those_of_the_table() {
    let mut text = "| key | default | bounds | change | meaning |\n|---|---|---|---|---|\n".to_owned();
    for KeyInfo { key, change, default, bounds, about } in config::keys() {
        let default = match default {
            DefaultValue::Value(value) => format!("`{value}`"),
            DefaultValue::Words(words) => words.to_owned(),
        };
        let bounds = bounds.map_or_else(String::new, |(least, most)| format!("`{least}` to `{most}`"));
        let change = match change {
            Change::Live => "live",
            Change::Restart => "restart",
        };
        let mirror = key.strip_prefix("upstreamRoutes[].").unwrap_or(&key).trim_start_matches("upstream.");
        let about = match mirror.strip_prefix("mirrors[].") {
            Some(name) => format!("As `upstream.{name}`, for a mirror."),
            None => about,
        };
        writeln!(text, "| `{key}` | {default} | {bounds} | {change} | {about} |").unwrap();
    }
    generated("configuration.md", "keys", &text);
}

/// Help as one line, and the default that it names at its end.
fn meaning(argument: &clap::Arg) -> (String, String) {
    let help = argument.get_long_help().or_else(|| argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = help.trim_end_matches('.').strip_suffix(']').and_then(|text| text.rsplit_once(" [default: "));
    let sentence = |help: &str| format!("{}.", help.trim_end_matches('.'));
    match named {
        Some((help, words)) if words.contains(' ') => (sentence(help), words.to_owned()),
        Some((help, "none")) => (sentence(help), "none".to_owned()),
        Some((help, value)) => (sentence(help), format!("`{value}`")),
        None => {
            let values: Vec<_> = argument.get_default_values().iter().filter_map(|value| value.to_str()).collect();
            let default = match values[..] {
                _ if argument.is_required_set() => "required".to_owned(),
                _ if !argument.get_action().takes_values() => "off".to_owned(),
                [] => "none".to_owned(),
                _ => format!("`{}`", values.join(", ")),
            };
            (sentence(&help), default)
        }
    }
}

fn describe(command: &clap::Command, path: &str, text: &mut String) {
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let own = |argument: &&clap::Arg| !["help", "version"].contains(&argument.get_id().as_str());
    let arguments: Vec<_> = command.get_arguments().filter(own).collect();
    writeln!(text, "## {path}\n\n{}.\n", about.trim().trim_end_matches('.')).unwrap();
    if !arguments.is_empty() {
        text.push_str("| flag | default | meaning |\n|---|---|---|\n");
    }
    for argument in &arguments {
        let value = argument.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
        let flag = match argument.get_long() {
            Some(long) if argument.get_action().takes_values() => format!("--{long} {value}"),
            Some(long) => format!("--{long}"),
            None => value,
        };
        let (help, default) = meaning(argument);
        writeln!(text, "| `{flag}` | {default} | {help} |").unwrap();
    }
    if !arguments.is_empty() {
        text.push('\n');
    }
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        describe(inner, &format!("{path} {}", inner.get_name()), text);
    }
}

#[test]
fn the_flags_are_those_of_the_tables() {
    let mut description = cli::description();
    description.build();
    let mut text = String::new();
    for command in description.get_subcommands().filter(|command| command.get_name() != "help") {
        describe(command, command.get_name(), &mut text);
    }
    generated("command-line.md", "commands", &text);
}

#[test]
fn every_exit_code_is_there_and_no_other() {
    let codes: BTreeSet<String> = cli::EXIT_CODES.iter().map(ToString::to_string).collect();
    let text = file("docs/reference/command-line.md");
    let rows = text.lines().skip_while(|line| !line.starts_with("| exit code |")).skip(2);
    let said: BTreeSet<String> =
        rows.take_while(|line| line.starts_with('|')).map(|row| row.split('`').nth(1).unwrap().to_owned()).collect();
    assert_eq!(said, codes);
}

/// Configurations that are shown somewhere: in documents, and in what the chart renders.
fn examples() -> Vec<String> {
    let mut found = Vec::new();
    for document in ["README.md", "docs/UPSTREAMS.md"] {
        let text = file(document);
        let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        // The others are of node-config.
        found.extend(blocks.filter(|block| !block.contains("hosts:")).map(str::to_owned));
    }
    for name in ["direct", "local-daemonset", "local-static-pod", "proxy-daemonset", "proxy-static-pod"] {
        let text = file(&format!("deploy/manifests/{name}.yaml"));
        let rest = text.split("\n  config.yaml: |\n    adminListen").nth(1).unwrap();
        let lines = rest.lines().enumerate().take_while(|(at, line)| *at == 0 || line.starts_with("    "));
        let block: Vec<&str> = lines.map(|(_, line)| line.strip_prefix("    ").unwrap_or(line)).collect();
        found.push(format!("adminListen{}\n", block.join("\n")));
    }
    assert!(found.len() >= 10, "{found:#?}");
    found
}

fn valid(schema: &Value, text: &str) -> bool {
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("d8-registry.schema.json", schema.clone()).unwrap();
    let index = compiler.compile("d8-registry.schema.json", &mut schemas).unwrap();
    let value: Value = serde_saphyr::from_str(text).unwrap();
    schemas.validate(&value, index).is_ok()
}

#[test]
fn the_schema_is_one_and_takes_the_examples() {
    let schema = config::schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for example in examples() {
        assert!(valid(&schema, &example), "{example}");
    }
    for right in [
        "limits:\nauth:\n  token:\n",
        "listen: ['0.0.0.0:5001', '[::]:5001']\nadminListen: 127.0.0.1:0\n",
        "store: {maxBytes: 0, reserveBytes: 15%}\n",
        "store: {maxBytes: 20Gi, reserveBytes: 1000000}\n",
        "proxy: {ttl: 0, tagTtl: 1m30s, maxStale: 30d, staleOn: [unreachable, 5xx, 429, '401']}\n",
        "repositories: [{name: a/b-c__d}, {name: e, imagesRepo: r.example.com/x}]\n",
        "upstream: {imagesRepo: 'r.example.com:5000/a', scheme: HTTP, mirrors: [{imagesRepo: b, license: x}]}\n",
        "log: {format: text, level: debug, access: 'off'}\nlimits: {acceleration: 'off', queueWait: 0s}\n",
    ] {
        assert!(valid(&schema, right), "{right}");
    }
}

/// Each is refused by the program too, so that neither says more than it knows.
#[test]
fn the_schema_refuses_what_the_program_refuses() {
    let schema = config::schema();
    let machine = Machine { cores: 2, terminal: false };
    for wrong in [
        "stoer: {}\n",
        "limits: {pull: 5}\n",
        "limits: {pulls: many}\n",
        "limits: {pulls: 0}\n",
        "limits: {connections: 1000001}\n",
        "limits: {queueWait: 20}\n",
        "limits: {queueWait: 1m1h}\n",
        "limits: [1]\n",
        "manifests: {maxBytes: 1073741824}\n",
        "manifests: {maxBytes: 4 MiB}\n",
        "store: {reserveBytes: 150%}\n",
        "store: {mustExist: 'maybe'}\n",
        "store: {dir: ''}\n",
        "mode: Unmanaged\n",
        "log: {level: loud}\n",
        "listen: 5001\n",
        "listen: localhost:5001\n",
        "listen: []\n",
        "repository: System/x\n",
        "proxy: {staleOn: 5xx}\n",
        "proxy: {staleOn: [404]}\n",
        "auth: {users: [{name: a}]}\n",
        "auth: {users: [{name: a, passwordHash: hunter2}]}\n",
        "upstream: {imagesRepo: a, mirrors: [{imagesRepo: b, trustedHosts: [c]}]}\n",
    ] {
        assert!(!valid(&schema, wrong), "{wrong}");
        assert!(Config::parse(wrong, None, &Overrides::default(), machine).is_err(), "{wrong}");
    }
}

/// The default of every key is right by the key's own schema.
#[test]
fn every_default_is_valid() {
    fn each(schema: &Value, found: &mut Vec<(Value, Value)>) {
        for property in schema["properties"].as_object().into_iter().flat_map(|properties| properties.values()) {
            if let Some(default) = property.get("default") {
                found.push((property.clone(), default.clone()));
            }
            each(property, found);
        }
    }
    let mut found = Vec::new();
    each(&config::schema(), &mut found);
    assert!(found.len() > 30, "{found:?}");
    for (schema, default) in found {
        assert!(valid(&schema, &default.to_string()), "{default}: {schema}");
    }
}

/// The chart makes its pods anew for a key that a running server does not take; `listen` is an argument of theirs.
#[test]
fn the_chart_restarts_pods_for_every_key_that_needs_it() {
    let text = file("deploy/helm/d8-registry/templates/_configuration.tpl");
    let checksum = text.split("define \"restartChecksum\"").nth(1).unwrap();
    let restart = config::keys().into_iter().filter(|info| info.change == Change::Restart).map(|info| info.key);
    for key in restart.filter(|key| key != "listen") {
        let name = key.rsplit('.').next().unwrap();
        assert!(checksum.contains(&format!(".{name} ")) || checksum.contains(&format!(".{name})")), "{key}");
    }
}
