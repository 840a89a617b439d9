//! Payload with which a receiver finds the first damaged byte.

use anyhow::{Result, bail};

/// An endless stream of pseudo-random bytes (xorshift). Both ends compute it from the same seed.
#[derive(Debug, Clone)]
pub struct Pattern {
    state: u64,
    position: usize,
}

impl Pattern {
    /// Returns the stream of a seed.
    pub fn new(seed: u64) -> Self {
        // xorshift never leaves the state zero.
        Self { state: seed | 1 << 63, position: 0 }
    }

    /// Returns the first `length` bytes of a seed's stream.
    pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Self::new(seed).fill(&mut bytes);
        bytes
    }

    /// Fills the buffer with the stream's next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            *byte = self.next();
        }
    }

    /// Fails at the first byte that differs from the stream.
    pub fn verify(&mut self, buffer: &[u8]) -> Result<()> {
        for byte in buffer {
            let expected = self.next();
            if *byte != expected {
                bail!("byte {} is {byte:#04x} and should be {expected:#04x}", self.position - 1);
            }
        }
        Ok(())
    }

    fn next(&mut self) -> u8 {
        if self.position.is_multiple_of(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
        }
        let byte = self.state.to_le_bytes()[self.position % 8];
        self.position += 1;
        byte
    }
}
