//! Parses files of shell assignments, such as subnet.env.

/// Returns the assignments `KEY=VALUE` in their order. Accepts `export` before the key and quotes around the value.
/// Skips comments and all other lines.
///
/// ```
/// use flannel_agent::env_file::assignments;
///
/// let text = "# written by flannel\nexport FLANNEL_MTU=\"1450\"\n";
/// assert_eq!(assignments(text).collect::<Vec<_>>(), [("FLANNEL_MTU", "1450")]);
/// ```
pub fn assignments(text: &str) -> impl DoubleEndedIterator<Item = (&str, &str)> {
    text.lines().filter_map(assignment)
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let (key, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let unquoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    key.bytes().all(is_name).then_some((key, unquoted.unwrap_or(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_a_shell_reads_them() {
        for (line, expected) in [
            ("FLANNEL_MTU=1450", Some(("FLANNEL_MTU", "1450"))),
            ("  FLANNEL_MTU=1450 ", Some(("FLANNEL_MTU", "1450"))),
            ("export FLANNEL_MTU=\"1450\"", Some(("FLANNEL_MTU", "1450"))),
            ("DOCKER_OPTS='--a --b=c'", Some(("DOCKER_OPTS", "--a --b=c"))),
            ("FLANNEL_MTU=", Some(("FLANNEL_MTU", ""))),
            ("# FLANNEL_MTU=1450", None),
            ("FLANNEL_MTU", None),
            ("", None),
        ] {
            assert_eq!(assignments(line).next(), expected, "{line:?}");
        }
    }
}
