use super::*;

fn miss(last: u8) -> Miss {
    Miss::Neighbour([10, 5, 1, last].into())
}

fn pod(n: u32) -> IpAddr {
    (0x0a05_0000 + n).to_be_bytes().into()
}

#[test]
fn a_question_is_asked_once_and_again_after_its_negative_answer_ends() {
    let (mut misses, start) = (Misses::default(), Instant::now());
    assert!(misses.add(7, miss(1), start));
    assert!(!misses.add(7, miss(1), start), "it waits already");
    let [question] = misses.take_new()[..] else { panic!() };
    assert_eq!(question, Question::Kernel(7, miss(1)));
    misses.put_back(question, start);
    assert!(misses.ask_datastore());
    assert!(!misses.add(7, miss(1), start), "it waits for the datastore");
    assert_eq!(misses.take_asked(), [question]);
    misses.not_answered(question, start);
    assert!(misses.take_new().is_empty() && !misses.ask_datastore());
    assert!(!misses.add(7, miss(1), start + NEGATIVE / 2), "nobody has it");
    assert!(misses.add(7, miss(1), start + NEGATIVE));
}

#[test]
fn the_number_of_questions_is_limited() {
    let (mut misses, start) = (Misses::default(), Instant::now());
    let added = (0..5000u32).filter(|n| misses.add(7, Miss::Neighbour(pod(*n)), start));
    assert_eq!(added.count(), MAX);
    assert_eq!(misses.take_new().len(), MAX);
}

/// Asks for one pod after the other for a minute, and counts how often the datastore is asked.
fn asks_of_a_minute(answered: bool) -> usize {
    let (mut misses, start) = (Misses::default(), Instant::now());
    let asks = |n: u32| {
        let now = start + Duration::from_millis(10) * n;
        misses.add_pod(pod(n), now);
        for question in misses.take_new() {
            misses.put_back(question, now);
        }
        let asks = misses.ask_datastore();
        for question in misses.take_asked() {
            if answered { misses.answered() } else { misses.not_answered(question, now) }
        }
        usize::from(asks)
    };
    (0..6000).map(asks).sum()
}

#[test]
fn the_datastore_is_asked_less_and_less_often_while_it_has_no_answer() {
    // At 0, 1, 3, 7 and 15 seconds, and every 10 from then on.
    assert_eq!(asks_of_a_minute(false), 9);
    assert!(asks_of_a_minute(true) > 1000);
}

#[test]
fn questions_that_come_together_have_one_answer() {
    let (mut misses, start) = (Misses::default(), Instant::now());
    assert!((0..3).all(|n| misses.add_pod(pod(n), start)));
    for question in misses.take_new() {
        misses.put_back(question, start);
    }
    assert!(misses.ask_datastore());
    assert_eq!(misses.take_asked().len(), 3);
    assert!(!misses.add_pod(pod(9), start), "the datastore is left alone");
    assert!(!misses.add_pod(pod(0), start + PAUSE), "that has been asked already");
    assert!(misses.add_pod(pod(9), start + PAUSE));
}

#[test]
fn an_answer_is_for_the_questions_before_its_request() {
    let (mut misses, start) = (Misses::default(), Instant::now());
    misses.put_back(Question::Pod(pod(1)), start);
    assert!(misses.ask_datastore());
    let later = start + PAUSE;
    misses.put_back(Question::Pod(pod(2)), later);
    assert_eq!(misses.take_asked(), [Question::Pod(pod(1))]);
    misses.not_answered(Question::Pod(pod(1)), later);
    assert!(misses.ask_datastore());
    assert_eq!(misses.take_asked(), [Question::Pod(pod(2))]);
}
