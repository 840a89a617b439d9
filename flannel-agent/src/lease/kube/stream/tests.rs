use super::*;

/// The items and the rest of a list that arrives in pieces of this length.
fn split(list: &str, piece: usize) -> (Vec<String>, Option<String>) {
    let (mut splitter, mut items) = (ListSplitter::default(), Vec::new());
    for piece in list.as_bytes().chunks(piece) {
        let take = |item: &[u8]| {
            items.push(String::from_utf8(item.to_vec())?);
            Ok(())
        };
        splitter.feed(piece, take).unwrap();
    }
    (items, splitter.finish().map(|rest| String::from_utf8(rest).unwrap()))
}

#[test]
fn items_are_taken_out_of_a_list_wherever_it_is_cut() {
    let first = r#"{"metadata":{"name":"a]}\"\\","x":[{"y":[1]}]},"s":"{["}"#;
    let second = r#"{"metadata":{}}"#;
    let list = format!(
        r#"{{"kind":"NodeList","metadata":{{"managed":[{{"a":1}}],"resourceVersion":"7","m":{{"n":{{}}}}}},"items":[{first},{second}],"z":1}}"#
    );
    for piece in 1..list.len() {
        let (items, rest) = split(&list, piece);
        assert_eq!(items, [first, second], "pieces of {piece}");
        assert_eq!(
            rest.as_deref(),
            Some(
                r#"{"kind":"NodeList","metadata":{"managed":[{"a":1}],"resourceVersion":"7","m":{"n":{}}},"items":[],"z":1}"#
            )
        );
    }
}

#[test]
fn a_list_without_items_is_a_list() {
    for list in [r#"{"metadata":{},"items":[]}"#, r#"{"metadata":{},"items":null}"#, "{}"] {
        assert_eq!(split(list, 3), (Vec::new(), Some(list.to_owned())));
    }
}

#[test]
fn a_list_that_was_cut_off_is_no_list() {
    let list = r#"{"metadata":{},"items":[{"a":1},{"b":2}]}"#;
    for end in 0..list.len() {
        assert_eq!(split(&list[..end], 5).1, None, "{}", &list[..end]);
    }
}
