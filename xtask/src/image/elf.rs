//! What the kernel and the dynamic loader read in a program or a library.

use anyhow::{Context, Result, ensure};
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Architecture, Endianness, Object, elf};

/// An ELF file of a 64-bit machine.
pub(super) struct Elf {
    /// The machine that it is for.
    pub(super) machine: Architecture,
    /// The path of the dynamic loader. None for a static program and for a library.
    pub(super) loader: Option<String>,
    /// The names of the libraries that it is linked to.
    pub(super) libraries: Vec<String>,
}

impl Elf {
    pub(super) fn parse(data: &[u8]) -> Result<Self> {
        let file = ElfFile64::<Endianness>::parse(data).context("not a 64-bit ELF file")?;
        Ok(Self {
            machine: file.architecture(),
            loader: loader(&file, data)?,
            libraries: libraries(&file, data)?,
        })
    }

    /// Fails if it is for another machine.
    pub(super) fn ensure_for(&self, machine: Architecture) -> Result<()> {
        ensure!(self.machine == machine, "is for {:?}, not for {machine:?}", self.machine);
        Ok(())
    }
}

fn loader(file: &ElfFile64<'_, Endianness>, data: &[u8]) -> Result<Option<String>> {
    for header in file.elf_program_headers() {
        if let Some(path) = header.interpreter(file.endian(), data)? {
            return Ok(Some(text(path)));
        }
    }
    Ok(None)
}

fn libraries(file: &ElfFile64<'_, Endianness>, data: &[u8]) -> Result<Vec<String>> {
    let endian = file.endian();
    let sections = file.elf_header().sections(endian, data)?;
    let Some((entries, link)) = sections.dynamic(endian, data)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, data, link)?;
    let needed = entries.iter().filter(|entry| entry.tag(endian) == elf::DT_NEEDED);
    needed.map(|entry| Ok(text(entry.string(endian, strings)?))).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_names_its_loader_and_the_c_library() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        let elf = Elf::parse(&program).unwrap();
        assert!(elf.loader.is_some_and(|loader| loader.contains("ld-linux")));
        assert!(elf.libraries.iter().any(|library| library == "libc.so.6"), "{:?}", elf.libraries);
        assert!(Elf::parse(b"#!/bin/sh").is_err());
    }
}
