//! The form of messages in conditions, as Deckhouse has it.

/// Most items of a list that are shown.
const MOST_ITEMS: usize = 10;

/// Most runes of a version that are shown.
const MOST_RUNES: usize = 15;

/// A heading and up to ten items, each on a line of its own.
pub(super) fn list(heading: &str, items: &[String]) -> String {
    let shown = items.len().min(MOST_ITEMS);
    let mut text = list_whole(heading, &items[..shown]);
    if items.len() > shown {
        text.push_str(&format!("\t...and {} more\n", items.len() - shown));
    }
    text
}

/// A heading and all items.
pub(super) fn list_whole(heading: &str, items: &[String]) -> String {
    let mut text = line(heading);
    for item in items {
        text.push_str(&format!("- {item}\n"));
    }
    text
}

/// A line.
pub(super) fn line(text: &str) -> String {
    format!("{text}\n")
}

/// The beginning of a version.
pub(super) fn short(version: &str) -> String {
    let mut runes = version.chars();
    let mut short: String = runes.by_ref().take(MOST_RUNES).collect();
    if runes.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_ten_and_says_how_many_more() {
        let items: Vec<String> = (0..12).map(|n| format!("node-{n}: waits")).collect();
        let text = list("2/14 node(s) ready. Waiting:", &items);
        assert!(text.starts_with("2/14 node(s) ready. Waiting:\n- node-0: waits\n"));
        assert!(text.ends_with("- node-9: waits\n\t...and 2 more\n"));
        assert_eq!(list("x", &items[..10]).lines().count(), 11);
    }

    #[test]
    fn a_version_is_cut_behind_fifteen_runes() {
        assert_eq!(short("0123456789abcdef"), "0123456789abcde…");
        assert_eq!(short("0123456789abcde"), "0123456789abcde");
        assert_eq!(short("ёёёёёёёёёёёёёёёё"), "ёёёёёёёёёёёёёёё…");
    }
}
