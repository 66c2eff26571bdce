//! The judge finds what is planted, and nothing in what may be.

use super::*;

const RULES: Rules = Rules { settled: 5_000_000, converging: true };
const IMAGE: Key = Key::Image(1);
const TAG: Key = Key::Tag(1);
/// Long enough for everything to be settled, in microseconds.
const LATER: At = 60_000_000;

fn wrote(key: Key, value: Value, master: usize, began: At) -> Write {
    Write { key, value, master, began, ended: began + 10_000, end: End::Acknowledged, copies: 2 }
}

fn read(key: Key, value: Value, master: usize, began: At) -> Read {
    Read { key, seen: Seen::Value(value), master, began, ended: began + 10_000 }
}

fn all_linked() -> Vec<Vec<bool>> {
    vec![vec![true; 3]; 3]
}

/// The links without those of a master.
fn without(master: usize) -> Vec<Vec<bool>> {
    let linked = |one: usize, other: usize| one == other || (one != master && other != master);
    (0..3).map(|one| (0..3).map(|other| linked(one, other)).collect()).collect()
}

fn kinds(history: &History) -> Vec<Kind> {
    history.judge(RULES).faults.iter().map(|fault| fault.kind).collect()
}

fn history(writes: Vec<Write>, reads: Vec<Read>) -> History {
    History { writes, reads, ..History::default() }
}

/// At the end, of one key at each master.
fn at_the_end(writes: Vec<Write>, key: Key, values: [Value; 3]) -> History {
    let last = values.iter().enumerate().map(|(master, value)| read(key, *value, master, LATER)).collect();
    History { writes, last, ..History::default() }
}

#[test]
fn a_quiet_history_is_found_good() {
    let mut good = at_the_end(vec![wrote(TAG, Some(1), 0, 0), wrote(TAG, Some(2), 1, 50_000)], TAG, [Some(2); 3]);
    // A master that has not heard of the second one yet.
    good.reads = vec![read(TAG, None, 2, 0), read(TAG, Some(1), 2, 70_000), read(TAG, Some(2), 1, 70_000)];
    assert_eq!(kinds(&good), []);
    assert_eq!(good.judge(RULES).of_own, 1);
}

#[test]
fn wrong_bytes_are_found() {
    let mut wrong = read(IMAGE, None, 0, 0);
    wrong.seen = Seen::Wrong("a layer".to_owned());
    assert_eq!(kinds(&history(vec![wrote(IMAGE, Some(1), 0, 0)], vec![wrong])), [Kind::WrongBytes]);
}

#[test]
fn a_value_from_nowhere_is_found() {
    let writes = vec![wrote(TAG, Some(1), 0, 0), wrote(TAG, Some(3), 0, 500_000)];
    // The second one is read before anybody wrote it.
    let reads = vec![read(TAG, Some(2), 0, 20_000), read(TAG, Some(3), 1, 20_000)];
    assert_eq!(kinds(&history(writes, reads)), [Kind::NobodyWroteIt; 2]);
}

#[test]
fn an_acknowledged_image_that_its_own_master_does_not_have_is_found() {
    let lost = history(vec![wrote(IMAGE, Some(1), 0, 0)], vec![read(IMAGE, None, 0, 20_000)]);
    assert_eq!(kinds(&lost), [Kind::OlderThanItsOwn]);
    // Before it is acknowledged, or where the push was cut, no is an answer.
    let early = history(vec![wrote(IMAGE, Some(1), 0, 0)], vec![read(IMAGE, None, 0, 5_000)]);
    assert_eq!(kinds(&early), []);
    let cut = Write { end: End::Cut, ..wrote(IMAGE, Some(1), 0, 0) };
    assert_eq!(kinds(&history(vec![cut], vec![read(IMAGE, None, 0, 20_000)])), []);
}

#[test]
fn no_for_an_image_that_a_reachable_master_has_is_found() {
    let asked = |at| history(vec![wrote(IMAGE, Some(1), 0, 0)], vec![read(IMAGE, None, 1, at)]);
    assert_eq!(kinds(&asked(LATER)), [Kind::GoneWhileHeld]);
    let refused = |history: &mut History| history.reads[0].seen = Seen::Refused("503".to_owned());
    let mut held = asked(LATER);
    refused(&mut held);
    assert_eq!(kinds(&held), [Kind::RefusedWhileHeld]);
    // Cut off from it, or just back: nobody can know.
    for (cut, healed) in [(LATER, LATER + 1), (LATER - 10_000_000, LATER - 4_000_000), (LATER + 5_000, LATER * 2)] {
        let mut away = asked(LATER);
        away.links.change(cut, without(0));
        away.links.change(healed, all_linked());
        assert_eq!(kinds(&away), [], "{cut}..{healed}");
        refused(&mut away);
        assert_eq!(kinds(&away), []);
        // The third one's links are no excuse.
        let mut other = asked(LATER);
        other.links.change(cut, without(2));
        assert_eq!(kinds(&other), [Kind::GoneWhileHeld]);
    }
    let mut back = asked(LATER);
    back.links.change(1, without(0));
    back.links.change(LATER - 6_000_000, all_linked());
    assert_eq!(kinds(&back), [Kind::GoneWhileHeld]);
    // Whoever deletes it makes any answer good until all is quiet.
    let mut deleted = asked(LATER);
    deleted.writes.push(wrote(IMAGE, None, 2, LATER));
    assert_eq!(kinds(&deleted), []);
}

#[test]
fn a_master_that_goes_back_behind_its_own_write_is_found() {
    let writes = vec![wrote(TAG, Some(1), 0, 0), wrote(TAG, Some(2), 1, 50_000), wrote(TAG, None, 1, 100_000)];
    assert_eq!(kinds(&history(writes.clone(), vec![read(TAG, Some(1), 1, 70_000)])), [Kind::OlderThanItsOwn]);
    assert_eq!(kinds(&history(writes.clone(), vec![read(TAG, Some(2), 1, 200_000)])), [Kind::OlderThanItsOwn]);
    assert_eq!(kinds(&history(writes, vec![read(TAG, Some(2), 0, 200_000)])), []);
    // One at the same time, or open, may be the larger one.
    let mut beside = vec![wrote(TAG, Some(1), 0, 95_000), wrote(TAG, None, 1, 100_000)];
    assert_eq!(kinds(&history(beside.clone(), vec![read(TAG, Some(1), 1, 200_000)])), []);
    beside[0] = Write { end: End::Open, ..wrote(TAG, Some(1), 0, 0) };
    assert_eq!(kinds(&history(beside.clone(), vec![read(TAG, Some(1), 1, 200_000)])), []);
    beside[0].end = End::Cut;
    assert_eq!(kinds(&history(beside, vec![read(TAG, Some(1), 1, 200_000)])), [Kind::OlderThanItsOwn]);
}

#[test]
fn a_tag_that_is_back_at_the_end_is_found() {
    let writes = vec![wrote(TAG, Some(1), 0, 0), wrote(TAG, None, 1, 50_000)];
    assert_eq!(kinds(&at_the_end(writes.clone(), TAG, [None; 3])), []);
    assert_eq!(kinds(&at_the_end(writes, TAG, [Some(1); 3])), [Kind::BackAtTheEnd; 3]);
}

#[test]
fn an_acknowledged_write_that_is_lost_at_the_end_is_found() {
    let writes = vec![wrote(IMAGE, None, 0, 0), wrote(IMAGE, Some(1), 1, 50_000)];
    assert_eq!(kinds(&at_the_end(writes.clone(), IMAGE, [Some(1); 3])), []);
    assert_eq!(kinds(&at_the_end(writes, IMAGE, [None; 3])), [Kind::LostAtTheEnd; 3]);
    // Without records an image has to be had all the same.
    let alone = at_the_end(vec![wrote(IMAGE, Some(1), 1, 0)], IMAGE, [Some(1), None, Some(1)]);
    let found = alone.judge(Rules { converging: false, ..RULES }).faults;
    assert_eq!(
        found.iter().map(|fault| (fault.kind, fault.read.master)).collect::<Vec<_>>(),
        [(Kind::LostAtTheEnd, 1)]
    );
}

#[test]
fn masters_that_differ_at_the_end_are_found() {
    // Either may have won.
    let writes = vec![wrote(TAG, Some(1), 0, 0), wrote(TAG, Some(2), 1, 5_000)];
    for winner in [1, 2] {
        assert_eq!(kinds(&at_the_end(writes.clone(), TAG, [Some(winner); 3])), []);
    }
    let apart = at_the_end(writes, TAG, [Some(1), Some(2), Some(1)]);
    assert_eq!(kinds(&apart), [Kind::DifferentAtTheEnd; 2]);
}

fn loss(masters: &[usize], from: At, to: At) -> Loss {
    Loss { masters: masters.to_vec(), from, to }
}

#[test]
fn what_a_lost_disk_alone_had_may_be_gone_and_nothing_else() {
    for (copies, lost, is_found) in [
        (2, vec![loss(&[0], 50_000, 60_000)], true),
        (2, vec![loss(&[1, 2], 50_000, 60_000)], true),
        (2, vec![loss(&[0, 2], 50_000, 60_000)], false),
        (3, vec![loss(&[0, 2], 50_000, 60_000)], true),
        (1, vec![loss(&[0], 50_000, 60_000)], false),
        (1, vec![loss(&[1], 50_000, 60_000)], true),
        // One copy was left, and its disk may be the next.
        (2, vec![loss(&[0], 50_000, 60_000), loss(&[1], 70_000, 80_000)], false),
        (2, vec![loss(&[1], 50_000, 60_000), loss(&[2], 70_000, 80_000)], true),
    ] {
        let mut gone = at_the_end(vec![Write { copies, ..wrote(IMAGE, Some(1), 0, 0) }], IMAGE, [None; 3]);
        gone.losses = lost.clone();
        let expected = if is_found { vec![Kind::LostAtTheEnd; 3] } else { Vec::new() };
        assert_eq!(kinds(&gone), expected, "{copies} {lost:?}");
    }
    // Written on the new disk it is there.
    let mut later = at_the_end(vec![Write { copies: 1, ..wrote(IMAGE, Some(1), 0, 100_000) }], IMAGE, [None; 3]);
    later.losses = vec![loss(&[0], 50_000, 60_000)];
    assert_eq!(kinds(&later), [Kind::LostAtTheEnd; 3]);
}

#[test]
fn a_master_with_a_new_disk_need_not_know_its_own_writes_until_all_is_quiet() {
    let mut asked = history(vec![wrote(IMAGE, Some(1), 0, 0)], vec![read(IMAGE, None, 0, LATER)]);
    assert_eq!(kinds(&asked), [Kind::OlderThanItsOwn]);
    asked.losses = vec![loss(&[0], 50_000, 60_000)];
    assert_eq!(kinds(&asked), []);
    asked.reads[0].master = 1;
    assert_eq!(kinds(&asked), [], "nor can another one find it there");
    asked.losses[0].masters = vec![2];
    assert_eq!(kinds(&asked), [Kind::GoneWhileHeld]);
}

#[test]
fn damage_is_seen_at_its_master_until_it_is_mended() {
    let mut wrong = read(IMAGE, None, 0, LATER);
    wrong.seen = Seen::Wrong("a layer".to_owned());
    for (master, from, to, is_found) in
        [(0, 0, At::MAX, false), (1, 0, At::MAX, true), (0, 0, LATER - 1, true), (0, LATER + 10_001, At::MAX, true)]
    {
        let mut asked = history(vec![wrote(IMAGE, Some(1), 0, 0)], vec![wrong.clone()]);
        asked.damages = vec![Damage { master, from, to }];
        assert_eq!(!kinds(&asked).is_empty(), is_found, "{master} {from} {to}");
    }
}

#[test]
fn where_a_clock_was_wrong_the_writes_of_one_master_alone_have_an_order() {
    let beside = |first: usize, second: usize| {
        let writes = vec![wrote(TAG, Some(1), first, 0), wrote(TAG, Some(2), second, 50_000)];
        History { is_skewed: true, ..at_the_end(writes, TAG, [Some(1); 3]) }
    };
    assert_eq!(kinds(&beside(0, 1)), []);
    assert_eq!(kinds(&beside(1, 1)), [Kind::LostAtTheEnd; 3]);
    let mut lost = beside(1, 1);
    lost.losses = vec![loss(&[1], 20_000, 30_000)];
    assert_eq!(kinds(&lost), []);
    let mut apart = beside(0, 1);
    apart.last[2].seen = Seen::Value(Some(2));
    assert_eq!(kinds(&apart), [Kind::DifferentAtTheEnd]);
}
