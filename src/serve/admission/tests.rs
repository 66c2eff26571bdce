use std::task::Poll;

use futures_util::{FutureExt as _, poll};
use proptest::prelude::*;

use super::*;
use crate::serve::Watch as _;

fn admission(most: usize) -> Arc<Admission> {
    Arc::new(Admission::new(most))
}

fn enter(admission: &Arc<Admission>, address: &str) -> Place {
    admission.enter(address.parse().unwrap()).now_or_never().expect("there is a place")
}

fn is_told(place: &Place) -> bool {
    place.guest().told_to_leave().now_or_never().is_some()
}

/// Lets one more in; which of `places` goes for it.
async fn gone_for_another(admission: &Arc<Admission>, places: &mut Vec<Place>, address: &str) -> usize {
    let mut entering = pin!(admission.enter(address.parse().unwrap()));
    assert!(poll!(entering.as_mut()).is_pending());
    let told: Vec<usize> = (0..places.len()).filter(|at| is_told(&places[*at])).collect();
    let [gone] = told[..] else { panic!("one has to go, not {told:?}") };
    drop(places.remove(gone));
    let Poll::Ready(place) = poll!(entering) else { panic!("there is a place now") };
    places.push(place);
    gone
}

#[tokio::test]
async fn of_the_address_with_most_guests_the_longest_idle_goes() {
    let admission = admission(6);
    let from = ["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let mut places: Vec<_> = from.iter().map(|address| enter(&admission, address)).collect();
    assert_eq!(gone_for_another(&admission, &mut places, "192.0.2.4").await, 1);
    // Two have two each: the oldest of them.
    assert_eq!(gone_for_another(&admission, &mut places, "192.0.2.5").await, 0);
    assert_eq!(admission.taken(), 6);
}

#[tokio::test]
async fn who_asked_something_is_idle_less_long_and_who_is_answered_goes_after_the_idle() {
    let admission = admission(3);
    let mut places: Vec<_> = (0..3).map(|_| enter(&admission, "192.0.2.1")).collect();
    places[0].guest().begin();
    assert_eq!(gone_for_another(&admission, &mut places, "192.0.2.1").await, 1);
    places[1].guest().begin();
    places[2].guest().begin();
    assert_eq!(gone_for_another(&admission, &mut places, "192.0.2.1").await, 0, "all are being answered");
}

#[tokio::test]
async fn who_signed_in_never_goes() {
    let admission = admission(500);
    // As many nodes behind one address.
    let mut places: Vec<_> = (0..500).map(|_| enter(&admission, "192.0.2.1")).collect();
    for place in &places[1..] {
        place.guest().signed_in();
    }
    assert_eq!(gone_for_another(&admission, &mut places, "192.0.2.9").await, 0);
    places.last().unwrap().guest().signed_in();
    let mut entering = pin!(admission.enter("192.0.2.9".parse().unwrap()));
    assert!(poll!(entering.as_mut()).is_pending());
    assert!(!places.iter().any(is_told), "nobody can be told to go");
    places.pop();
    assert!(poll!(entering).is_ready());
}

#[tokio::test]
async fn a_request_of_anonymous_is_safe_while_it_runs_and_its_idle_connection_is_not() {
    let admission = admission(1);
    let mut places = vec![enter(&admission, "192.0.2.1")];
    places[0].guest().let_in();
    let mut entering = pin!(admission.enter("192.0.2.2".parse().unwrap()));
    assert!(poll!(entering.as_mut()).is_pending());
    assert!(!is_told(&places[0]));
    places[0].guest().let_out();
    assert!(poll!(entering.as_mut()).is_pending());
    assert!(is_told(&places[0]));
    places.clear();
    assert!(poll!(entering).is_ready());
}

#[tokio::test]
async fn an_ipv6_customer_counts_once_and_a_mapped_address_is_an_ipv4_one() {
    let admission = admission(4);
    let from = ["2001:db8:0:1::1", "192.0.2.1", "2001:db8:0:2::1", "2001:db8:0:2:ffff::2"];
    let mut places: Vec<_> = from.iter().map(|address| enter(&admission, address)).collect();
    assert_eq!(gone_for_another(&admission, &mut places, "::ffff:192.0.2.1").await, 2);
    assert_eq!(gone_for_another(&admission, &mut places, "192.0.2.7").await, 1);
}

#[tokio::test]
async fn a_trusted_proxy_s_connection_counts_for_the_client_of_its_last_request() {
    let admission = admission(4);
    let proxy = "10.0.0.1";
    let mut places: Vec<_> = (0..3).map(|_| enter(&admission, proxy)).collect();
    places.push(enter(&admission, "192.0.2.8"));
    // One client has two of the proxy's connections, another one.
    for (place, client) in places.iter().zip(["192.0.2.1", "192.0.2.2", "192.0.2.2"]) {
        place.guest().speaks_for(client.parse().unwrap());
    }
    assert_eq!(gone_for_another(&admission, &mut places, "192.0.2.9").await, 1);
    // What one client proved is worth nothing for the next.
    for place in &places {
        place.guest().signed_in();
    }
    places[1].guest().speaks_for("192.0.2.1".parse().unwrap());
    assert_eq!(gone_for_another(&admission, &mut places, "192.0.2.9").await, 1);
}

#[tokio::test]
async fn who_no_longer_waits_is_owed_nothing() {
    let admission = admission(1);
    let place = enter(&admission, "192.0.2.1");
    place.guest().signed_in();
    {
        let mut entering = pin!(admission.enter("192.0.2.2".parse().unwrap()));
        assert!(poll!(entering.as_mut()).is_pending());
    }
    assert_eq!((admission.waiting.load(Ordering::Relaxed), admission.taken()), (0, 1));
    drop(place);
    assert_eq!((admission.leaving.load(Ordering::Relaxed), admission.taken()), (0, 0));
}

#[tokio::test]
async fn more_places_let_the_waiting_in() {
    let admission = admission(1);
    let first = enter(&admission, "192.0.2.1");
    first.guest().signed_in();
    let mut entering = pin!(admission.enter("192.0.2.1".parse().unwrap()));
    assert!(poll!(entering.as_mut()).is_pending());
    admission.set_most(2);
    assert!(poll!(entering).is_ready());
}

#[test]
fn who_holds_too_much_goes_and_others_do_not() {
    let admission = admission(1000);
    let small: Vec<_> = (0..100).map(|_| enter(&admission, "192.0.2.1")).collect();
    for place in &small {
        // Usual heads are free.
        place.guest().has_read(4000);
    }
    assert_eq!(admission.held.load(Ordering::Relaxed), 0);
    let large: Vec<_> = (0..400).map(|n| enter(&admission, &format!("2001:db8:0:{n}::1"))).collect();
    for place in &large {
        for _ in 0..16 {
            place.guest().has_read(4000);
        }
    }
    assert!(admission.held.load(Ordering::Relaxed) <= GUEST_BYTES);
    assert!(small.iter().all(|place| !is_told(place)));
    let told = large.iter().filter(|place| is_told(place)).count();
    assert!((300..400).contains(&told), "{told}");
}

#[test]
fn a_head_s_buffer_stays_charged_on_http1_and_a_stream_is_over_with_its_answer_on_http2() {
    let admission = admission(2);
    let (http1, http2) = (enter(&admission, "192.0.2.1"), enter(&admission, "192.0.2.1"));
    http1.guest().has_read(60_000);
    let buffer = http1.guest().charged();
    assert!(buffer > 60_000);
    http1.guest().begin();
    http1.guest().has_read(1 << 20);
    http1.guest().end();
    http1.guest().has_read(100);
    assert_eq!(http1.guest().charged(), buffer, "bodies are not charged, a shorter head needs no more");

    http2.guest().has_read(5000);
    http2.guest().shook_hands(true, 0);
    assert_eq!(http2.guest().charged(), 0);
    http2.guest().has_read(60_000);
    let costs = [http2.guest().begin_stream(60_000), http2.guest().begin_stream(60_000)];
    assert!(http2.guest().charged() >= 3 * 60_000);
    http2.guest().end_stream(costs[0], false);
    http2.guest().end_stream(costs[1], true);
    assert_eq!(http2.guest().charged(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Enter(u8),
    Leave(usize),
    Read(usize, usize),
    Begin(usize),
    End(usize),
    SignIn(usize),
    SpeakFor(usize, u8),
    LetInAndOut(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..20_usize;
    prop_oneof![
        any::<u8>().prop_map(|n| Step::Enter(n % 4)),
        at.clone().prop_map(Step::Leave),
        (at.clone(), 0..2_000_000_usize).prop_map(|(at, bytes)| Step::Read(at, bytes)),
        at.clone().prop_map(Step::Begin),
        at.clone().prop_map(Step::End),
        at.clone().prop_map(Step::SignIn),
        (at.clone(), any::<u8>()).prop_map(|(at, n)| Step::SpeakFor(at, n % 4)),
        at.prop_map(Step::LetInAndOut),
    ]
}

proptest! {
    /// Whatever happens: what is held by all is the sum of what each holds and within the bound, who signed in is never
    /// told to go and holds nothing, and nothing is left when all are gone.
    #[test]
    fn the_books_are_right(steps in prop::collection::vec(step(), 1..200)) {
        let admission = admission(1000);
        let mut places: Vec<Place> = Vec::new();
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        for step in steps {
            let place = |at: usize| places.get(at % places.len().max(1)).map(|place| Arc::clone(place.guest()));
            let told: Vec<u64> = places.iter().filter(|place| is_told(place)).map(|place| place.guest().number).collect();
            match step {
                Step::Enter(n) => places.push(admission.enter(address(n)).now_or_never().unwrap()),
                Step::Leave(at) if !places.is_empty() => drop(places.swap_remove(at % places.len())),
                Step::Read(at, bytes) => place(at).iter().for_each(|guest| { guest.has_read(bytes); }),
                Step::Begin(at) => place(at).iter().for_each(|guest| guest.begin()),
                Step::End(at) => place(at).iter().for_each(|guest| guest.end()),
                Step::SignIn(at) => place(at).iter().for_each(|guest| guest.signed_in()),
                Step::SpeakFor(at, n) => place(at).iter().for_each(|guest| guest.speaks_for(address(n))),
                Step::LetInAndOut(at) => place(at).iter().for_each(|guest| { guest.let_in(); guest.let_out(); }),
                Step::Leave(_) => {}
            }
            let held = admission.held.load(Ordering::Relaxed);
            prop_assert_eq!(held, places.iter().map(|place| place.guest().charged()).sum::<usize>());
            prop_assert!(held <= GUEST_BYTES);
            for place in places.iter().filter(|place| place.guest().is_let_in()) {
                prop_assert_eq!(place.guest().charged(), 0);
                prop_assert!(!is_told(place) || told.contains(&place.guest().number));
            }
            prop_assert_eq!(admission.taken(), places.len());
        }
        drop(places);
        prop_assert_eq!((admission.held.load(Ordering::Relaxed), admission.taken()), (0, 0));
        prop_assert!(admission.guests().by_origin.is_empty());
    }
}
