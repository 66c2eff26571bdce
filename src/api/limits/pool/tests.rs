use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;

const LONG: Duration = Duration::from_secs(600);

fn holder(number: u8) -> Holder {
    Holder::new(Some("ro".into()), IpAddr::from([127, 0, 0, number]))
}

fn stream() -> Arc<Stream> {
    Arc::default()
}

/// So many places of one holder, as far as they are to be had.
fn hold(pool: &Pool, number: u8, wanted: usize) -> Vec<Place> {
    (0..wanted).map_while(|_| pool.try_enter(&holder(number), &stream())).collect()
}

#[test]
fn one_alone_gets_all_and_still_keeps_nobody_out() {
    for limit in [1, 2, 16, 512] {
        let pool = Pool::new(limit, 0, LONG);
        let all = hold(&pool, 1, limit);
        assert_eq!(all.len(), limit);
        assert!(pool.try_enter(&holder(1), &stream()).is_none(), "no more than the limit");
        // Each of many others gets one, one after the other and some at once.
        for other in 2..100 {
            assert!(pool.try_enter(&holder(other), &stream()).is_some());
        }
        let others: Vec<_> = (2..10).map(|other| hold(&pool, other, 1)).collect();
        assert!(others.iter().all(|held| held.len() == 1), "at limit {limit}");
    }
}

#[test]
fn holders_are_told_apart_by_user_and_address_and_ipv6_by_its_network() {
    let of = |user: &str, address: &str| Holder::new(Some(user.into()), address.parse().unwrap());
    assert_ne!(of("a", "192.0.2.1"), of("a", "192.0.2.2"));
    assert_ne!(of("a", "192.0.2.1"), of("b", "192.0.2.1"));
    assert_eq!(of("a", "2001:db8:0:1::1"), of("a", "2001:db8:0:1:ffff::2"));
    assert_ne!(of("a", "2001:db8:0:1::1"), of("a", "2001:db8:0:2::1"));
}

#[tokio::test]
async fn the_next_place_goes_to_who_holds_fewest() {
    let pool = Pool::new(100, 400, LONG);
    let mut greedy = hold(&pool, 1, 100);
    // The reserve is used by others, so that everybody waits.
    let _reserve: Vec<Place> = (10..).map_while(|other| pool.try_enter(&holder(other), &stream())).collect();
    let (greedy_holder, second, third, streams) = (holder(1), holder(2), holder(3), [stream(), stream(), stream()]);
    let mut first = Box::pin(pool.enter(&greedy_holder, &streams[0]));
    assert!(first.as_mut().now_or_never().is_none());
    let mut second = Box::pin(pool.enter(&second, &streams[1]));
    let mut third = Box::pin(pool.enter(&third, &streams[2]));
    assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
    // What is beyond the limit has to be given back first.
    let beyond = pool.counts().0 - 100;
    greedy.truncate(100 - beyond - 1);
    let second = second.now_or_never().expect("it came before the third").unwrap();
    assert!(first.as_mut().now_or_never().is_none(), "it came first and holds most");
    greedy.pop();
    third.now_or_never().expect("it holds none").unwrap();
    drop(second);
    greedy.clear();
    first.now_or_never().expect("nobody else wants it").unwrap();
}

#[tokio::test]
async fn a_wait_that_is_given_up_leaves_nothing() {
    let pool = Pool::new(1, 4, LONG);
    let held = hold(&pool, 1, 1);
    let (one, stream) = (holder(1), stream());
    let mut waiting = Box::pin(pool.enter(&one, &stream));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(pool.counts(), (1, 1));
    drop(waiting);
    assert_eq!(pool.counts(), (1, 0));
    drop(held);
    assert_eq!(pool.counts(), (0, 0));
    assert!(pool.lock().shares.is_empty());
}

#[tokio::test]
async fn in_a_full_queue_who_wants_most_gives_way() {
    let pool = Pool::new(1, 2, LONG);
    let _all = hold(&pool, 1, 1);
    let _reserve: Vec<Place> = (10..).map_while(|other| pool.try_enter(&holder(other), &stream())).collect();
    let (greedy, modest, streams) = (holder(1), holder(2), [stream(), stream(), stream(), stream()]);
    let mut older = Box::pin(pool.enter(&greedy, &streams[0]));
    let mut newer = Box::pin(pool.enter(&greedy, &streams[1]));
    assert!(older.as_mut().now_or_never().is_none() && newer.as_mut().now_or_never().is_none());
    assert_eq!(pool.enter(&greedy, &streams[2]).now_or_never().unwrap().unwrap_err(), Refused);
    let mut other = Box::pin(pool.enter(&modest, &streams[3]));
    assert!(other.as_mut().now_or_never().is_none(), "it waits");
    assert_eq!(newer.now_or_never().unwrap().unwrap_err(), Refused);
    assert!(older.as_mut().now_or_never().is_none());
}

#[test]
fn only_what_stands_because_of_its_client_is_cut_and_only_for_who_wants_its_place() {
    let pool = Pool::new(2, 0, LONG);
    let (standing, working) = (stream(), stream());
    standing.stand_since(STANDING);
    working.stand_since(STANDING);
    working.works();
    let _held: Vec<Place> = [&standing, &working].map(|stream| pool.try_enter(&holder(1), stream).unwrap()).into();
    assert!(!standing.is_cut(), "nobody wants its place");
    assert!(pool.try_enter(&holder(1), &stream()).is_none());
    assert!(standing.is_cut() && !working.is_cut());
}

#[tokio::test]
async fn who_waits_has_standing_streams_cut() {
    let pool = Pool::new(1, 4, Duration::from_millis(20));
    let (one, standing, waiting) = (holder(1), stream(), stream());
    let _held = pool.try_enter(&one, &standing).unwrap();
    let mut wait = Box::pin(pool.enter(&one, &waiting));
    assert!(wait.as_mut().now_or_never().is_none());
    standing.stand_since(STANDING);
    pool.lock().looked = None;
    assert_eq!(wait.await.unwrap_err(), Refused);
    assert!(standing.is_cut());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// As long as all who come are served, nobody is refused who would not have been by a plain limit with a queue.
    #[test]
    fn many_with_few_each_are_refused_no_more_than_by_a_plain_limit(
        limit in 1_usize..8,
        arrivals in proptest::collection::vec((0_u8..6, any::<bool>()), 1..120),
    ) {
        let queue = limit * 4;
        let pool = Pool::new(limit, queue, LONG);
        let (mut plain_held, mut plain_waiting, mut plain_refused, mut refused) = (0_usize, 0_usize, 0, 0);
        let mut held: VecDeque<Place> = VecDeque::new();
        let mut waiting: Vec<Waiting> = Vec::new();
        for (number, ends) in arrivals {
            if ends {
                if plain_held > 0 {
                    if plain_waiting > 0 { plain_waiting -= 1 } else { plain_held -= 1 }
                }
                held.pop_front();
            } else {
                if plain_held < limit { plain_held += 1 } else if plain_waiting < queue { plain_waiting += 1 } else { plain_refused += 1 }
                match pool.try_enter(&holder(number), &stream()) {
                    Some(place) => held.push_back(place),
                    None => match pool.wait(&holder(number), &stream()) {
                        Some(place) => waiting.push(place),
                        None => refused += 1,
                    },
                }
            }
            let mut i = 0;
            while i < waiting.len() {
                match waiting[i].turn.try_recv() {
                    Ok(place) => { held.push_back(place); waiting.remove(i); }
                    Err(oneshot::error::TryRecvError::Empty) => i += 1,
                    Err(oneshot::error::TryRecvError::Closed) => { waiting.remove(i); refused += 1; }
                }
            }
            let (taken, queued) = pool.counts();
            prop_assert_eq!((taken, queued), (held.len(), waiting.len()));
            prop_assert!(taken <= most_places(limit) && queued <= queue);
            prop_assert!(queued == 0 || taken >= limit, "nobody waits beside a free place");
            prop_assert!(refused <= plain_refused);
        }
        waiting.clear();
        held.clear();
        prop_assert!(pool.lock().shares.is_empty());
    }
}
