//! Who may run now: a bounded number of slots, a bounded queue, and turns.
//!
//! ```text
//!            ask ──▶ waiting ──▶ running ──▶ (gone)
//!             │         │    slot free  done
//!             │         └─ leave ─▶ (gone)
//!             └─ queue full ─▶ refused
//! ```
//!
//! Within one lane of one principal the order is first come, first served; between
//! principals the free slots go round, and within a principal between its lanes, so
//! that one that floods the queue delays itself alone. A principal that invents
//! lanes has no more turns by that. Memory is bounded: at the bound a request is
//! refused.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use crate::{
    failure::{Failure, FailureKind},
    ids::{Lane, Principal},
};

/// How many may wait, all together. A waiting run costs its request: at most a
/// program's text, mostly a few hundred bytes.
pub const MAX_WAITING: usize = 1024;

/// How many of one principal may wait: nobody fills the queue for the others.
pub const MAX_WAITING_EACH: usize = 512;

/// One request for a slot. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The answer to [`Admission::ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It has a slot.
    Run(Ticket),
    /// It waits for its turn.
    Wait(Ticket),
    /// There is no room to wait.
    Refused(Refusal),
}

/// Why there is no room to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The bound that was met.
    pub limit: usize,
    /// The bound is the principal's own.
    pub own: bool,
    /// After how long it is worth trying again.
    pub retry_after: Duration,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let whose = if refusal.own { " of yours" } else { "" };
        let message = format!("{} runs{whose} are waiting already", refusal.limit);
        Self::new(FailureKind::AtCapacity, message)
            .hint("try again later, or raise `maxConcurrent` in the configuration")
            .retry_after(refusal.retry_after)
    }
}

/// The slots and the queue.
#[derive(Debug)]
pub struct Admission {
    slots: usize,
    max_waiting: usize,
    max_waiting_each: usize,
    running: BTreeSet<Ticket>,
    waiting: HashMap<Principal, Line>,
    /// Principals with somebody waiting; the first is next.
    turns: VecDeque<Principal>,
    waiting_count: usize,
    next: u64,
}

/// Those of one principal who wait. The lane that comes next is the first.
#[derive(Debug, Default)]
struct Line(VecDeque<(Lane, VecDeque<Ticket>)>);

impl Line {
    fn len(&self) -> usize {
        self.0.iter().map(|(_, own)| own.len()).sum()
    }

    fn contains(&self, ticket: Ticket) -> bool {
        self.0.iter().any(|(_, own)| own.contains(&ticket))
    }

    fn push(&mut self, lane: Lane, ticket: Ticket) {
        match self.0.iter_mut().find(|(other, _)| *other == lane) {
            Some((_, own)) => own.push_back(ticket),
            None => self.0.push_back((lane, VecDeque::from([ticket]))),
        }
    }

    fn pop(&mut self) -> Option<Ticket> {
        let (lane, mut own) = self.0.pop_front()?;
        let next = own.pop_front();
        if !own.is_empty() {
            self.0.push_back((lane, own));
        }
        next
    }

    fn remove(&mut self, ticket: Ticket) {
        for (_, own) in &mut self.0 {
            own.retain(|other| *other != ticket);
        }
        self.0.retain(|(_, own)| !own.is_empty());
    }
}

impl Admission {
    /// `slots` run at the same time.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self::with_bounds(slots, MAX_WAITING, MAX_WAITING_EACH)
    }

    /// The same with other bounds on the queue.
    #[must_use]
    pub fn with_bounds(slots: usize, max_waiting: usize, max_waiting_each: usize) -> Self {
        Self {
            slots: slots.max(1),
            max_waiting,
            max_waiting_each,
            running: BTreeSet::new(),
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            waiting_count: 0,
            next: 0,
        }
    }

    /// Asks for a slot.
    pub fn ask(&mut self, who: Principal, lane: &Lane) -> Answer {
        if let Some(refusal) = self.refusal(who) {
            return Answer::Refused(refusal);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        // A free slot with somebody waiting does not exist: `leave` fills it.
        if self.running.len() < self.slots {
            self.running.insert(ticket);
            return Answer::Run(ticket);
        }
        let own = self.waiting.entry(who).or_default();
        if own.len() == 0 {
            self.turns.push_back(who);
        }
        own.push(lane.clone(), ticket);
        self.waiting_count += 1;
        Answer::Wait(ticket)
    }

    /// Ends a ticket, whether it runs or waits; unknown ones are passed over.
    /// Gives the ticket that has the slot now, if that changed.
    pub fn leave(&mut self, ticket: Ticket) -> Option<Ticket> {
        if self.running.remove(&ticket) {
            let next = self.take_next()?;
            self.running.insert(next);
            return Some(next);
        }
        let who = self
            .waiting
            .iter()
            .find_map(|(who, own)| own.contains(ticket).then_some(*who))?;
        self.remove_waiting(who, |own| own.remove(ticket));
        None
    }

    /// Runs that have a slot.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Runs that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting_count
    }

    /// Runs that may have a slot at the same time.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    fn refusal(&self, who: Principal) -> Option<Refusal> {
        if self.running.len() < self.slots {
            return None;
        }
        let own = self.waiting.get(&who).map_or(0, Line::len);
        let (limit, own) = if self.waiting_count >= self.max_waiting {
            (self.max_waiting, false)
        } else if own >= self.max_waiting_each {
            (self.max_waiting_each, true)
        } else {
            return None;
        };
        // The queue moves by a slot's worth of runs at a time; what a run takes
        // is not known, so a second is as good a guess as any.
        let rounds = u64::try_from(self.waiting_count / self.slots).unwrap_or(u64::MAX);
        Some(Refusal {
            limit,
            own,
            retry_after: Duration::from_secs(rounds.clamp(1, 30)),
        })
    }

    fn take_next(&mut self) -> Option<Ticket> {
        let who = self.turns.pop_front()?;
        // To the end of the round, if there is more of it.
        self.turns.push_back(who);
        let mut taken = None;
        self.remove_waiting(who, |own| taken = own.pop());
        taken
    }

    fn remove_waiting(&mut self, who: Principal, remove: impl FnOnce(&mut Line)) {
        let Some(own) = self.waiting.get_mut(&who) else {
            return;
        };
        let before = own.len();
        remove(own);
        self.waiting_count -= before - own.len();
        if own.len() == 0 {
            self.waiting.remove(&who);
            self.turns.retain(|other| *other != who);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Principal = Principal(1);
    const B: Principal = Principal(2);
    const C: Principal = Principal(3);

    fn wait(admission: &mut Admission, who: Principal) -> Ticket {
        wait_in(admission, who, "")
    }

    fn wait_in(admission: &mut Admission, who: Principal, lane: &str) -> Ticket {
        match admission.ask(who, &Lane::parse(lane).expect("a lane")) {
            Answer::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn run(admission: &mut Admission, who: Principal) -> Ticket {
        match admission.ask(who, &Lane::default()) {
            Answer::Run(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_principal_is_served_in_order() {
        let mut admission = Admission::new(1);
        let first = run(&mut admission, A);
        let second = wait(&mut admission, A);
        let third = wait(&mut admission, A);
        assert_eq!(admission.leave(first), Some(second));
        assert_eq!(admission.leave(second), Some(third));
        assert_eq!(admission.leave(third), None);
        assert_eq!((admission.running(), admission.waiting()), (0, 0));
    }

    #[test]
    fn a_flood_delays_only_who_makes_it() {
        let mut admission = Admission::new(1);
        let running = run(&mut admission, A);
        let flood: Vec<_> = (0..50).map(|_| wait(&mut admission, A)).collect();
        let b = wait(&mut admission, B);
        let c = wait(&mut admission, C);
        assert_eq!(admission.leave(running), Some(flood[0]));
        assert_eq!(admission.leave(flood[0]), Some(b));
        assert_eq!(admission.leave(b), Some(c));
        assert_eq!(admission.leave(c), Some(flood[1]));
    }

    #[test]
    fn lanes_of_one_principal_take_turns_and_get_no_more_of_them() {
        let mut admission = Admission::new(1);
        let running = run(&mut admission, A);
        let flood: Vec<_> = (0..9).map(|_| wait_in(&mut admission, A, "x")).collect();
        let other = wait_in(&mut admission, A, "y");
        let third = wait_in(&mut admission, A, "z");
        let b = wait(&mut admission, B);
        let mut now = running;
        for next in [flood[0], b, other, third, flood[1], flood[2]] {
            assert_eq!(admission.leave(now), Some(next));
            now = next;
        }
        // Who leaves the queue takes nobody's turn.
        let late = wait_in(&mut admission, A, "y");
        assert_eq!(admission.leave(flood[3]), None);
        assert_eq!(admission.leave(now), Some(flood[4]));
        assert_eq!(admission.leave(flood[4]), Some(late));
    }

    #[test]
    fn the_queue_is_bounded_for_all_and_for_each() {
        let mut admission = Admission::with_bounds(1, 3, 2);
        run(&mut admission, A);
        wait(&mut admission, A);
        wait(&mut admission, A);
        let Answer::Refused(own) = admission.ask(A, &Lane::default()) else {
            panic!("the principal's own bound")
        };
        assert!(own.own && own.limit == 2);
        wait(&mut admission, B);
        let Answer::Refused(all) = admission.ask(C, &Lane::default()) else {
            panic!("the bound of all")
        };
        assert!(!all.own && all.limit == 3);
        assert_eq!(all.retry_after, Duration::from_secs(3));
        assert_eq!(Failure::from(all).kind, FailureKind::AtCapacity);
    }

    #[test]
    fn leaving_the_queue_frees_no_slot() {
        let mut admission = Admission::new(1);
        let running = run(&mut admission, A);
        let gone = wait(&mut admission, B);
        assert_eq!(admission.leave(gone), None);
        assert_eq!(admission.leave(gone), None);
        assert_eq!(admission.leave(running), None);
        run(&mut admission, C);
    }

    proptest! {
        /// Whatever happens: never more running than slots, never an idle slot
        /// with somebody waiting, nobody served twice, nobody forgotten.
        #[test]
        fn no_slot_leaks(
            slots in 1_usize..4,
            events in proptest::collection::vec(
                (0_u32..3, any::<bool>(), any::<usize>(), "[ab]?"),
                0..200,
            ),
        ) {
            let mut admission = Admission::with_bounds(slots, 8, 5);
            let mut running = BTreeSet::new();
            let mut waiting = Vec::new();
            for (who, ask, pick, lane) in events {
                let lane = Lane::parse(&lane).expect("a lane");
                if ask {
                    match admission.ask(Principal(who), &lane) {
                        Answer::Run(ticket) => prop_assert!(running.insert(ticket)),
                        Answer::Wait(ticket) => waiting.push(ticket),
                        Answer::Refused(_) => prop_assert!(waiting.len() >= 5),
                    }
                } else {
                    let all: Vec<_> = running.iter().chain(&waiting).copied().collect();
                    let Some(ticket) = all.get(pick % all.len().max(1)).copied() else { continue };
                    let next = admission.leave(ticket);
                    running.remove(&ticket);
                    waiting.retain(|other| *other != ticket);
                    if let Some(next) = next {
                        prop_assert!(waiting.contains(&next));
                        waiting.retain(|other| *other != next);
                        prop_assert!(running.insert(next));
                    }
                }
                prop_assert_eq!(admission.running(), running.len());
                prop_assert_eq!(admission.waiting(), waiting.len());
                prop_assert!(running.len() <= slots && waiting.len() <= 8);
                prop_assert!(waiting.is_empty() || running.len() == slots);
            }
            for ticket in running.iter().chain(&waiting).copied().collect::<Vec<_>>() {
                admission.leave(ticket);
            }
            prop_assert_eq!((admission.running(), admission.waiting()), (0, 0));
        }
    }
}
