//! All orders of the steps of three actors, and orders by chance.

use std::collections::HashSet;

use super::*;

/// A law that some order of steps broke, and that order.
#[derive(Debug)]
struct Witness {
    #[expect(dead_code, reason = "shown where a test fails")]
    broken: Broken,
    #[expect(dead_code, reason = "shown where a test fails")]
    steps: Vec<(State, [[Actor; 2]; 3])>,
}

/// Goes through every order of the actors' steps; says how many states there are.
fn explore(state: State, actors: [[Actor; 2]; 3], rules: Rules) -> Result<usize, Witness> {
    let mut seen = HashSet::from([(state, actors)]);
    // Each with the place of the one before it.
    let mut found = vec![(state, actors, 0)];
    let mut next = 0;
    while next < found.len() {
        let (state, actors, _) = found[next];
        let witness = |broken, found: &[(State, [[Actor; 2]; 3], usize)]| {
            let mut steps = Vec::new();
            let mut at = next;
            while at != 0 {
                steps.push((found[at].0, found[at].1));
                at = found[at].2;
            }
            steps.push((found[0].0, found[0].1));
            steps.reverse();
            Witness { broken, steps }
        };
        let mut moved = false;
        for at in 0..3 {
            match state.step(actors[at][0], rules) {
                Ok(Step::Waits) => {}
                Ok(Step::To(after, actor)) => {
                    moved = true;
                    let mut actors = actors;
                    actors[at] = if actor == Actor::Ended { [actors[at][1], actor] } else { [actor, actors[at][1]] };
                    if seen.insert((after, actors)) {
                        found.push((after, actors, next));
                    }
                }
                Err(broken) => return Err(witness(broken, &found)),
            }
        }
        if !moved && actors.iter().any(|actor| actor[0] != Actor::Ended) {
            return Err(witness("all wait for each other", &found));
        }
        next += 1;
    }
    Ok(found.len())
}

fn remove() -> Actor {
    Actor::Remove(Collecting::default())
}

fn judge() -> Actor {
    Actor::Judge(Collecting::default())
}

/// What clients do, and time.
fn others() -> Vec<Actor> {
    let put = |content| Actor::Put(content, Putting::default());
    vec![
        Actor::Ended,
        Actor::Time(6),
        Actor::Ask(BLOB, 0, 0),
        Actor::Ask(M, 0, 0),
        Actor::Ask(I, 0, 0),
        put(M),
        put(I),
        Actor::Upload(BLOB, 0),
        Actor::Delete(M, 0),
        Actor::Delete(I, 0),
    ]
}

/// Where an exploration begins: graces over, or not begun.
fn beginnings() -> Vec<State> {
    let empty = State {
        judges_untagged: false,
        clock: 10,
        members: 0,
        tagged: 0,
        suspects: 0,
        taken: 0,
        since: [0; 4],
        locked: false,
        touching: 0,
        touches: 0,
        deletes: 0,
        whole: [None; 4],
        promised: [0; 4],
        reached_since: 0,
        deleted: 0,
    };
    let blobs = 1 << BLOB | 1 << OTHER;
    let whole = [None, None, Some(0), Some(0)];
    let all = blobs | MANIFESTS;
    let mut found = vec![
        State { members: blobs, ..empty },
        State { members: blobs, suspects: blobs, ..empty },
        State { members: blobs | 1 << M, suspects: 1 << OTHER, ..empty },
        State { members: blobs | 1 << M, tagged: 1 << M, suspects: 1 << OTHER, whole, ..empty },
    ];
    for (tagged, suspects) in [(0, MANIFESTS), (1 << M, 1 << I), (1 << I, 0), (0, 0)] {
        found.push(State { judges_untagged: true, members: all, tagged, suspects, whole, ..empty });
        found.push(State { judges_untagged: true, members: all, tagged, suspects, ..empty });
    }
    // For a promise that is still good at the beginning: just before a verdict on it.
    found
        .iter()
        .map(|state| state.looked())
        .map(|state| State { reached_since: state.reached_since & !state.suspects, ..state })
        .collect()
}

/// Whether pairs of what clients do are gone through too: all of them are minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pairs {
    Some,
    All,
}

fn explore_all(rules: Rules, pairs: Pairs) -> Result<usize, Witness> {
    let mut states = 0;
    let (others, none) = (others(), Actor::Ended);
    for state in beginnings() {
        for collector in [remove(), judge()] {
            for (at, one) in others.iter().enumerate() {
                for other in &others[at..] {
                    states += explore(state, [[collector, none], [*one, none], [*other, none]], rules)?;
                }
            }
        }
        // A verdict and a removal by it, beside two things that a client does, and time.
        let is_wanted = |one: &Actor, other: &Actor| match (one, other) {
            _ if pairs == Pairs::All => true,
            (Actor::Put(M, _), Actor::Delete(M, _)) => state.members == 1 << BLOB | 1 << OTHER,
            (Actor::Ask(BLOB, ..), Actor::Ended) => state.suspects == 0,
            _ => false,
        };
        for one in &others {
            for other in others.iter().filter(|other| is_wanted(one, other)) {
                states += explore(state, [[judge(), remove()], [*one, *other], [Actor::Time(6), none]], rules)?;
            }
        }
    }
    Ok(states)
}

#[test]
fn every_order_of_three_actors_keeps_the_laws() {
    let states = explore_all(RULES, Pairs::Some).unwrap_or_else(|witness| panic!("{witness:#?}"));
    assert!(states > 100_000, "{states}");
}

#[test]
#[ignore = "a minute: make torture"]
fn every_order_of_three_actors_that_do_two_things_keeps_the_laws() {
    explore_all(RULES, Pairs::All).unwrap_or_else(|witness| panic!("{witness:#?}"));
}

#[test]
fn no_rule_of_the_protocol_can_be_left_out() {
    type LeaveOut = fn(&mut Rules);
    let without: [(&str, LeaveOut); 9] = [
        ("removal_looks_at_touches", |rules| rules.removal_looks_at_touches = false),
        ("delete_counts_first", |rules| rules.delete_counts_first = false),
        ("saving_waits", |rules| rules.saving_waits = false),
        ("saving_goes_down", |rules| rules.saving_goes_down = false),
        ("put_touches", |rules| rules.put_touches = false),
        ("verdict_looks_at_touches", |rules| rules.verdict_looks_at_touches = false),
        ("suspects_first", |rules| rules.suspects_first = false),
        ("answers_save", |rules| rules.answers_save = false),
        ("answers_have_time", |rules| rules.answers_have_time = false),
    ];
    let mut kept = Vec::new();
    for (name, leave_out) in without {
        let mut rules = RULES;
        leave_out(&mut rules);
        if explore_all(rules, Pairs::Some).is_ok() && walk(rules, 1, 100_000).is_ok() {
            kept.push(name);
        }
    }
    assert_eq!(kept, [""; 0], "no order of steps needs these rules");
}

/// Steps by chance: whoever has ended begins something else, and time goes on.
fn walk(rules: Rules, seed: u64, steps: usize) -> Result<(), Broken> {
    let mut chance = seed;
    let mut below = move |bound: usize| {
        chance ^= chance >> 12;
        chance ^= chance << 25;
        chance ^= chance >> 27;
        usize::try_from(chance.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40).unwrap_or(0) % bound
    };
    let beginnings = beginnings();
    let others = others();
    let mut done = 0;
    while done < steps {
        let mut state = beginnings[below(beginnings.len())];
        let mut actors = [Actor::Ended; 3];
        // Counts are small: begun anew before they are at their end.
        while state.clock < 200 && state.touches < 200 && state.deletes < 200 {
            let at = below(3);
            if actors[at] == Actor::Ended {
                actors[at] = match at {
                    0 if below(2) == 0 => remove(),
                    0 => judge(),
                    _ => others[below(others.len())],
                };
                if actors[at] == Actor::Ended {
                    state.clock += 1;
                }
                continue;
            }
            if let Step::To(next, actor) = state.step(actors[at], rules)? {
                (state, actors[at]) = (next, actor);
            }
            done += 1;
        }
    }
    Ok(())
}

#[test]
fn a_million_steps_by_chance_keep_the_laws() {
    walk(RULES, 7, 1_000_000).unwrap_or_else(|broken| panic!("{broken}"));
}
