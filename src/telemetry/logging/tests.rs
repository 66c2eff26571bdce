use super::super::sink::tests::Captured;
use super::*;

const OPTIONS: LogOptions = LogOptions { format: LogFormat::Text, level: Level::Info, access: AccessMode::All };

fn logged(options: LogOptions, work: impl FnOnce(&Logging)) -> String {
    let (sink, text) = Captured::new().into_parts();
    let (dispatch, logging) = Logging::build(options, sink, false);
    tracing::dispatcher::with_default(&dispatch, || work(&logging));
    drop(logging);
    text()
}

#[test]
fn the_level_can_be_changed_and_others_say_only_what_is_urgent() {
    let text = logged(OPTIONS, |logging| {
        tracing::debug!("first");
        tracing::info!("second");
        tracing::info!(target: "hyper", "third");
        tracing::warn!(target: "hyper", "fourth");
        logging.set(Level::Debug, AccessMode::Off);
        tracing::debug!("fifth");
        logging.set(Level::Error, AccessMode::Off);
        tracing::warn!("sixth");
    });
    let words: Vec<&str> = text.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(words, ["second", "fourth", "fifth"]);
}

#[test]
fn json_lines_are_objects_with_facts_as_fields() {
    let text = logged(LogOptions { format: LogFormat::Json, ..OPTIONS }, |_| {
        tracing::warn!(path = "/a\nb", count = 3, "can't read");
    });
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["message"], "can't read");
    assert_eq!(line["path"], "/a\nb");
    assert_eq!(line["count"], 3);
    assert_eq!(line["level"], "WARN");
}

#[test]
fn equal_errors_come_once_and_are_counted_at_the_end() {
    for format in [LogFormat::Text, LogFormat::Json] {
        let text = logged(LogOptions { format, ..OPTIONS }, |logging| {
            for _ in 0..5 {
                for path in ["a", "b"] {
                    tracing::error!(path, "can't write");
                }
                tracing::info!("said");
            }
            logging.reporter().report_rest();
        });
        let count = |needle: &str| text.lines().filter(|line| line.contains(needle)).count();
        assert_eq!(count("said"), 5, "{text}");
        assert_eq!(count("can't write"), 4, "{text}");
        assert_eq!(count("held_back"), 2, "{text}");
        let numbers = text.lines().filter(|line| line.contains("held_back")).all(|line| line.contains('4'));
        assert!(numbers, "{text}");
    }
}

#[test]
fn the_rest_is_reported_at_the_end() {
    let (sink, text) = Captured::new().into_parts();
    let (dispatch, logging) = Logging::build(OPTIONS, sink, false);
    tracing::dispatcher::with_default(&dispatch, || {
        for _ in 0..3 {
            tracing::warn!("again");
        }
    });
    logging.reporter().report_rest();
    drop(logging);
    let text = text();
    assert!(text.lines().last().unwrap().ends_with("again held_back=2"), "{text}");
}

#[test]
fn levels_are_read_in_any_case() {
    for level in Level::ALL {
        assert_eq!(level.as_str().to_uppercase().parse::<Level>().unwrap(), level);
    }
    assert!("trace".parse::<Level>().is_err());
}
