use super::*;

fn miss(last: u8) -> Miss {
    Miss::Neighbour([10, 5, 1, last].into())
}

fn pod(n: u32) -> IpAddr {
    (0x0a05_0000 + n).to_be_bytes().into()
}

#[test]
fn a_question_is_asked_once_and_again_after_a_while() {
    let (mut misses, start) = (Misses::default(), Instant::now());
    assert!(misses.ask(7, miss(1), start));
    assert!(!misses.ask(7, miss(1), start), "it waits already");
    let [question] = misses.take()[..] else { panic!() };
    assert_eq!(question.about, About::Kernel(7, miss(1)));
    assert_eq!(misses.put_back(question, start), Fate::AskDatastore);
    let [question] = misses.take()[..] else { panic!() };
    assert_eq!(misses.put_back(question, start), Fate::Nobodys);
    assert!(misses.take().is_empty());
    assert!(!misses.ask(7, miss(1), start + NEGATIVE / 2), "nobody has it");
    assert!(misses.ask(7, miss(1), start + NEGATIVE));
}

#[test]
fn a_flood_of_questions_has_an_end() {
    let (mut misses, start) = (Misses::default(), Instant::now());
    let asked = (0..5000u32).filter(|n| misses.ask(7, Miss::Neighbour(pod(*n)), start));
    assert_eq!(asked.count(), MOST);
    assert_eq!(misses.take().len(), MOST);
}

/// Asks for one pod after the other for a minute, and counts how often the datastore is asked.
fn asks_of_a_minute(answered: bool) -> usize {
    let (mut misses, start) = (Misses::default(), Instant::now());
    let asks = |n: u32| {
        let now = start + Duration::from_millis(10) * n;
        misses.ask_for_pod(pod(n), now);
        let first = misses.take();
        let asks = first.into_iter().filter(|one| misses.put_back(*one, now) == Fate::AskDatastore);
        let asks = asks.count();
        for question in misses.take() {
            if answered {
                misses.answered(&question);
            } else {
                assert_eq!(misses.put_back(question, now), Fate::Nobodys);
            }
        }
        asks
    };
    (0..6000).map(asks).sum()
}

#[test]
fn the_datastore_is_asked_in_vain_ever_less_often() {
    // At 0, 1, 3, 7 and 15 seconds, and every 10 from then on.
    assert_eq!(asks_of_a_minute(false), 9);
    assert!(asks_of_a_minute(true) > 1000);
}

#[test]
fn questions_that_come_together_have_one_answer() {
    let (mut misses, start) = (Misses::default(), Instant::now());
    assert!((0..3).all(|n| misses.ask_for_pod(pod(n), start)));
    let fates: Vec<_> = misses.take().into_iter().map(|one| misses.put_back(one, start)).collect();
    assert_eq!(fates, [Fate::AskDatastore; 3]);
    assert!(!misses.ask_for_pod(pod(9), start), "the datastore is left alone");
    assert!(!misses.ask_for_pod(pod(0), start + PAUSE), "that has been asked already");
    assert!(misses.ask_for_pod(pod(9), start + PAUSE));
}
