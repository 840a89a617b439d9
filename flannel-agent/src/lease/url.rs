//! URLs as they are shown.

use std::borrow::Cow;

/// Returns a URL without the user and password that may stand in it, for the log.
pub(super) fn without_login(url: &str) -> Cow<'_, str> {
    let (scheme, rest) = url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some(at) = rest[..end].rfind('@') else { return Cow::Borrowed(url) };
    let rest = &rest[at + 1..];
    scheme.map_or_else(|| rest.into(), |scheme| format!("{scheme}://{rest}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_are_left_out() {
        for (url, shown) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("etcd:2379", "etcd:2379"),
            ("https://user:secret@etcd:2379/path@x", "https://etcd:2379/path@x"),
            ("https://user:se@cret@[fd00::1]:2379", "https://[fd00::1]:2379"),
            ("secret@etcd:2379", "etcd:2379"),
            ("https://etcd/a@b", "https://etcd/a@b"),
        ] {
            assert_eq!(without_login(url), shown);
        }
    }
}
