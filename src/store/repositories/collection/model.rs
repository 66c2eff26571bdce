//! A model of the protocol between collection and clients, in all orders of their steps.
//!
//! One repository: two blobs, a manifest M of the first, an index I of M. Three actors - the collector, clients, time - each do a
//! step at a time; every order of their steps is gone through. A step is what the store does without another one between: a look
//! into memory, a rename, a count. The laws are held against what clients were told, which the protocol does not know. Each
//! of the protocol's rules can be left out, and then some order breaks a law: so the model sees what it is there to see.

mod orders;

const BLOB: usize = 0;
const OTHER: usize = 1;
const M: usize = 2;
const I: usize = 3;
const ALL: [usize; 4] = [BLOB, OTHER, M, I];
const MANIFESTS: u8 = 1 << M | 1 << I;

/// What each names.
const NAMES: [u8; 4] = [0, 0, 1 << BLOB, 1 << M];

const GRACE: u8 = 2;
/// Ticks between a look at the list and the end of the answer.
const ANSWER: u8 = 3;

/// The rules of the protocol.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// A removal counts only if nothing touched the repository since its marking began.
    removal_looks_at_touches: bool,
    /// Deletes are counted before that look.
    delete_counts_first: bool,
    /// Who saves what was taken waits.
    saving_waits: bool,
    /// A manifest is saved with all below it.
    saving_goes_down: bool,
    /// Who puts a manifest touches from before the look whether all is there.
    put_touches: bool,
    /// A verdict counts only if nothing touched since.
    verdict_looks_at_touches: bool,
    /// Suspects are seen before that look.
    suspects_first: bool,
    /// A grace has the time for answers added.
    answers_have_time: bool,
    /// Answers save.
    answers_save: bool,
}

const RULES: Rules = Rules {
    removal_looks_at_touches: true,
    delete_counts_first: true,
    saving_waits: true,
    saving_goes_down: true,
    put_touches: true,
    verdict_looks_at_touches: true,
    suspects_first: true,
    answers_have_time: true,
    answers_save: true,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    judges_untagged: bool,
    clock: u8,
    members: u8,
    tagged: u8,
    suspects: u8,
    taken: u8,
    since: [u8; 4],
    /// The list is being written.
    locked: bool,
    touching: u8,
    touches: u8,
    deletes: u8,
    /// The count of deletes at which each was found whole.
    whole: [Option<u8>; 4],
    // What the protocol does not know.
    promised: [u8; 4],
    reached_since: u8,
    deleted: u8,
}

/// What an actor does, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Actor {
    Ended,
    Remove(Collecting),
    Judge(Collecting),
    /// Looks for what the client names next, with the answer of 200; the time at which it began.
    Ask(usize, u8, u8),
    Put(usize, Putting),
    Upload(usize, u8),
    Delete(usize, u8),
    Time(u8),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Collecting {
    step: u8,
    seen: u8,
    names: u8,
    tagged: u8,
    reached: u8,
    found: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Putting {
    step: u8,
    /// Of the walk: what is still to be looked for.
    left: u8,
}

type Broken = &'static str;

/// What became of a step.
enum Step {
    To(State, Actor),
    Waits,
}

fn members(set: u8) -> impl Iterator<Item = usize> {
    ALL.into_iter().filter(move |content| set >> content & 1 == 1)
}

fn closure(roots: u8, members_: u8) -> u8 {
    let mut reached = roots & members_;
    for _ in 0..2 {
        reached |= members(reached).fold(0, |set, content| set | NAMES[content]) & members_;
    }
    reached
}

/// What the collector takes for reached.
fn marked(judges_untagged: bool, names: u8, tagged: u8) -> u8 {
    let roots = if judges_untagged { tagged } else { tagged | (names & MANIFESTS) };
    // Blobs are held by any manifest that is there.
    let held = members(names & MANIFESTS).fold(0, |set, content| set | NAMES[content]) & !MANIFESTS;
    closure(roots, names) | (held & names)
}

impl State {
    fn wait(&self, rules: Rules) -> u8 {
        GRACE + if rules.answers_have_time { ANSWER } else { 0 }
    }

    /// Takes a content off the list; `None`: waits.
    fn save(mut self, content: usize, rules: Rules) -> Option<Self> {
        let mut set = 1 << content;
        if self.suspects & set == 0 {
            return Some(self);
        }
        if rules.saving_goes_down && MANIFESTS & set != 0 {
            set |= closure(set, self.members);
        }
        if self.locked || (rules.saving_waits && self.taken & set != 0) {
            return None;
        }
        self.suspects &= !set;
        self.touches += 1;
        Some(self)
    }

    fn is_untouched(&self, seen: u8) -> bool {
        self.touching == 0 && self.touches == seen
    }

    fn begin_touch(&mut self) {
        self.touching += 1;
        self.touches += 1;
    }

    fn end_touch(&mut self) {
        self.touching -= 1;
        self.touches += 1;
    }

    /// A client heard of it.
    fn promise(&mut self, set: u8) {
        for content in members(set) {
            self.promised[content] = self.clock + GRACE;
        }
    }

    /// A client heard of it in an answer that began then. One that takes longer than [`ANSWER`] is good for less.
    fn promise_from(&mut self, began: u8, set: u8) {
        for content in members(set) {
            self.promised[content] = self.promised[content].max(self.clock.min(began + ANSWER) + GRACE);
        }
    }

    fn is_promised(&self, content: usize) -> bool {
        self.promised[content] > self.clock
    }

    /// One step of an actor.
    fn step(mut self, actor: Actor, rules: Rules) -> Result<Step, Broken> {
        let next = match actor {
            Actor::Ended => return Ok(Step::Waits),
            Actor::Time(left) => {
                self.clock += 1;
                if left == 1 { Actor::Ended } else { Actor::Time(left - 1) }
            }
            Actor::Remove(at) => return self.remove(at, rules),
            Actor::Judge(at) => return Ok(self.judge(at, rules)),
            Actor::Ask(content, step, began) => {
                let saved = if rules.answers_save { self.save(content, rules) } else { Some(self) };
                match step {
                    0 => {
                        let Some(saved) = saved else { return Ok(Step::Waits) };
                        self = saved;
                        Actor::Ask(content, 1, self.clock)
                    }
                    1 if self.members >> content & 1 == 0 => Actor::Ended,
                    1 if MANIFESTS >> content & 1 == 0 || self.whole[content] == Some(self.deletes) => {
                        self.promise_from(began, closure(1 << content, self.members));
                        Actor::Ended
                    }
                    // A manifest is answered when all below it is there: looked at one by one.
                    1 => Actor::Ask(content, 2, began),
                    _ => {
                        let below = closure_of(content);
                        let left: Vec<usize> = members(below).collect();
                        let at = usize::from(step - 2);
                        match left.get(at) {
                            Some(named) => {
                                let Some(saved) = self.save(*named, rules) else { return Ok(Step::Waits) };
                                self = saved;
                                if self.members >> named & 1 == 0 {
                                    Actor::Ended
                                } else {
                                    Actor::Ask(content, step + 1, began)
                                }
                            }
                            None => {
                                // Less what a client deleted behind the look at it.
                                self.promise_from(began, (below | 1 << content) & self.members);
                                Actor::Ended
                            }
                        }
                    }
                }
            }
            Actor::Put(content, at) => return self.put(content, at, rules),
            Actor::Upload(content, step) => match step {
                0 => {
                    self.begin_touch();
                    Actor::Upload(content, 1)
                }
                1 => {
                    let Some(saved) = self.save(content, rules) else { return Ok(Step::Waits) };
                    self = saved;
                    Actor::Upload(content, 2)
                }
                2 => {
                    self.members |= 1 << content;
                    Actor::Upload(content, 3)
                }
                _ => {
                    self.end_touch();
                    self.promise(1 << content & self.members);
                    Actor::Ended
                }
            },
            Actor::Delete(content, step) => match step {
                0 => {
                    self.begin_touch();
                    Actor::Delete(content, 1)
                }
                1 => {
                    self.tagged &= !(1 << content);
                    Actor::Delete(content, 2)
                }
                2 => {
                    self.deletes += 1;
                    self.members &= !(1 << content);
                    self.promised[content] = 0;
                    self.deleted |= 1 << content;
                    Actor::Delete(content, 3)
                }
                _ => {
                    self.end_touch();
                    Actor::Ended
                }
            },
        };
        Ok(Step::To(self.looked(), next))
    }

    /// Notes what a root reaches at this instant.
    fn looked(mut self) -> Self {
        let roots = if self.judges_untagged { self.tagged } else { self.tagged | (self.members & MANIFESTS) };
        self.reached_since |= closure(roots, self.members);
        self
    }

    fn put(mut self, content: usize, mut at: Putting, rules: Rules) -> Result<Step, Broken> {
        match at.step {
            0 => {
                if rules.put_touches {
                    self.begin_touch();
                }
                at = Putting { step: 1, left: closure_of(content) };
                if self.whole[content] == Some(self.deletes) {
                    at = Putting { step: 2, left: NAMES[content] | 1 << content };
                }
            }
            // The walk.
            1 => match members(at.left).next() {
                Some(named) => {
                    let Some(saved) = self.save(named, rules) else { return Ok(Step::Waits) };
                    self = saved;
                    if self.members >> named & 1 == 0 {
                        if rules.put_touches {
                            self.end_touch();
                        }
                        if self.is_promised(named) {
                            return Err("a manifest is refused for what was promised");
                        }
                        return Ok(Step::To(self.looked(), Actor::Ended));
                    }
                    at.left &= !(1 << named);
                }
                None => at = Putting { step: 2, left: NAMES[content] | 1 << content },
            },
            // What it names, and itself, saved under the touch of the write.
            2 => match members(at.left).next() {
                Some(named) => {
                    let Some(saved) = self.save(named, rules) else { return Ok(Step::Waits) };
                    self = saved;
                    at.left &= !(1 << named);
                }
                None => at.step = 3,
            },
            3 => {
                if !rules.put_touches {
                    self.begin_touch();
                }
                self.members |= 1 << content;
                self.tagged |= 1 << content;
                self.deleted &= !(1 << content);
                at.step = 4;
            }
            _ => {
                self.end_touch();
                if closure_of(content) & !self.members & !self.deleted != 0 {
                    return Err("a manifest was taken whose content is gone");
                }
                self.promise(closure(1 << content, self.members));
                return Ok(Step::To(self.looked(), Actor::Ended));
            }
        }
        Ok(Step::To(self.looked(), Actor::Put(content, at)))
    }

    fn remove(mut self, mut at: Collecting, rules: Rules) -> Result<Step, Broken> {
        match at.step {
            0 => {
                if self.touching > 0 {
                    return Ok(Step::To(self, Actor::Ended));
                }
                at.seen = self.touches;
            }
            1 => (at.names, at.tagged) = (self.members, self.tagged),
            2 => {
                if at.names & MANIFESTS & !self.members != 0 {
                    return Ok(Step::To(self, Actor::Ended));
                }
                at.reached = marked(self.judges_untagged, at.names, at.tagged);
            }
            3 => {
                let due = members(self.suspects & at.names & !at.reached)
                    .find(|content| self.since[*content] + self.wait(rules) <= self.clock);
                let Some(content) = due else { return Ok(Step::To(self, Actor::Ended)) };
                at.found = 1 << content;
                self.taken |= at.found;
            }
            4 => self.deletes += u8::from(rules.delete_counts_first),
            5 => {
                if rules.removal_looks_at_touches && !self.is_untouched(at.seen) {
                    self.taken &= !at.found;
                    return Ok(Step::To(self, Actor::Ended));
                }
            }
            _ => {
                let content = at.found.trailing_zeros() as usize;
                if self.members & at.found != 0 {
                    if self.is_promised(content) {
                        return Err("what was promised is removed");
                    }
                    if self.reached_since & at.found != 0 {
                        return Err("what a root reached behind its verdict is removed");
                    }
                }
                self.members &= !at.found;
                self.tagged &= !at.found;
                self.suspects &= !at.found;
                self.taken &= !at.found;
                self.deletes += 1;
                return Ok(Step::To(self.looked(), Actor::Ended));
            }
        }
        at.step += 1;
        Ok(Step::To(self, Actor::Remove(at)))
    }

    fn judge(mut self, mut at: Collecting, rules: Rules) -> Step {
        match at.step {
            0 => {
                if self.touching > 0 {
                    return Step::To(self, Actor::Ended);
                }
                at.seen = self.touches;
            }
            1 => (at.names, at.tagged) = (self.members, self.tagged),
            2 => {
                if at.names & MANIFESTS & !self.members != 0 {
                    return Step::To(self, Actor::Ended);
                }
                at.found = at.names & !marked(self.judges_untagged, at.names, at.tagged) & !self.suspects;
            }
            3 => {
                if self.locked {
                    return Step::Waits;
                }
                self.locked = true;
                if rules.suspects_first {
                    self.suspects |= at.found;
                }
            }
            4 => {
                if rules.verdict_looks_at_touches && !self.is_untouched(at.seen) {
                    self.suspects &= !at.found;
                    self.locked = false;
                    return Step::To(self, Actor::Ended);
                }
            }
            _ => {
                self.suspects |= at.found;
                self.reached_since &= !at.found;
                for content in members(at.found) {
                    self.since[content] = self.clock;
                }
                self.locked = false;
                return Step::To(self.looked(), Actor::Ended);
            }
        }
        at.step += 1;
        Step::To(self, Actor::Judge(at))
    }
}

fn closure_of(content: usize) -> u8 {
    closure(1 << content, u8::MAX) & !(1 << content)
}
