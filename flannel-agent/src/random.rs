//! Random numbers from the kernel, by `getrandom(2)`.

use std::io;

/// Returns `N` random bytes.
///
/// # Errors
/// The kernel has no source of random numbers.
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// Returns a random number.
///
/// # Errors
/// The kernel has no source of random numbers.
pub(crate) fn number() -> io::Result<u64> {
    Ok(getrandom::u64()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_differ() {
        assert_ne!(number().unwrap(), number().unwrap());
        assert_ne!(bytes::<16>().unwrap(), bytes::<16>().unwrap());
    }
}
