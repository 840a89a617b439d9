//! The words of a line of iptables-save. Pure.

/// Splits a line at spaces. Quotes keep words together, and a backslash keeps the character after it.
#[must_use]
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' if !quoted => words.extend(word.take()),
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_keep_words_together() {
        for (line, expected) in [
            ("-A OUTPUT  -j DROP", &["-A", "OUTPUT", "-j", "DROP"][..]),
            (r#"--comment "a b" -j"#, &["--comment", "a b", "-j"]),
            (r#"--comment "a \" -j DROP \\" """#, &["--comment", r#"a " -j DROP \"#, ""]),
            ("", &[]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }
}
