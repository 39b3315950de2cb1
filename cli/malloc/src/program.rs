//! The pages of the program's own file that a process has mapped.
//!
//! *Why*: a start runs much that never runs again, and the kernel maps the pages around it as well: of 68 MiB that an idle process
//! had, 61 were pages of the file. They are let go once it runs; what is needed again comes back from the page cache, 64 KiB in a
//! microsecond or two.
//!
//! *Invariants*: only mappings that cannot be written to, of which no page is the process's own (relocated pages are): such pages are
//! the file's, byte for byte.

use std::io;
use std::os::unix::fs::MetadataExt;

/// Lets go of the pages of the program's file; returns how many bytes of them were mapped.
pub fn let_go() -> io::Result<usize> {
    let file = std::fs::metadata("/proc/self/exe")?;
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut bytes = 0;
    for mapping in mappings(&smaps).filter(|mapping| mapping.inode == file.ino() && mapping.is_the_files()) {
        #[allow(unsafe_code, reason = "the standard library has no door to a process's mappings")]
        // SAFETY: the range is a mapping of this program's file as the kernel has just told it, and nothing unmaps the program. It
        // cannot be written to and has no page of its own, so that every page comes back as it was, from the file.
        let done = unsafe {
            libc::madvise(mapping.from as *mut libc::c_void, mapping.to - mapping.from, libc::MADV_DONTNEED)
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += mapping.resident_kib << 10;
    }
    Ok(bytes)
}

/// A mapping, as `/proc/self/smaps` tells it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mapping {
    from: usize,
    to: usize,
    writable: bool,
    inode: u64,
    resident_kib: usize,
    /// Pages of the process's own; unknown until it is told.
    own_kib: Option<usize>,
}

impl Mapping {
    fn is_the_files(&self) -> bool {
        !self.writable && self.own_kib == Some(0)
    }

    /// `from-to rwxp offset device inode path`
    fn begun_by(line: &str) -> Option<Mapping> {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        let writable = words.next()?.contains('w');
        let inode = words.nth(2)?.parse().ok()?;
        Some(Mapping { from, to, writable, inode, ..Mapping::default() })
    }
}

fn mappings(smaps: &str) -> impl Iterator<Item = Mapping> {
    let kib = |line: &str| line.split_ascii_whitespace().nth(1).and_then(|word| word.parse().ok());
    let mut lines = smaps.lines().peekable();
    std::iter::from_fn(move || {
        let mut mapping = lines.by_ref().find_map(Mapping::begun_by)?;
        while let Some(line) = lines.next_if(|line| Mapping::begun_by(line).is_none()) {
            if line.starts_with("Rss:") {
                mapping.resident_kib = kib(line).unwrap_or(0);
            } else if line.starts_with("Anonymous:") {
                mapping.own_kib = kib(line);
            }
        }
        Some(mapping)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_files_is_let_go() {
        let told = "\
55adadd36000-55adb04a6000 r--p 00000000 fe:00 4711                       /opt/tarn
Size:              40384 kB
Rss:               12376 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55adb04a6000-55adb6ce5000 r-xp 0276f000 fe:00 4711                       /opt/tarn
Rss:               46396 kB
Anonymous:             0 kB
55adb6ce5000-55adb71fb000 r--p 08fad000 fe:00 4711                       /opt/tarn
Rss:                5188 kB
Anonymous:          5188 kB
55adb71fb000-55adb7210000 rw-p 094c2000 fe:00 4711                       /opt/tarn
Rss:                  80 kB
Anonymous:             0 kB
7f2084000000-7f2084074000 rw-p 00000000 00:00 0
Rss:                 460 kB
";
        let found: Vec<_> = mappings(told)
            .map(|mapping| (mapping.inode, mapping.resident_kib, mapping.is_the_files()))
            .collect();
        assert_eq!(
            found,
            [
                (4711, 12376, true),
                (4711, 46396, true),
                (4711, 5188, false),
                (4711, 80, false),
                (0, 460, false)
            ]
        );
        assert_eq!(mappings(told).next().map(|m| (m.from, m.to)), Some((0x55ad_add3_6000, 0x55ad_b04a_6000)));
    }

    #[test]
    fn a_process_goes_on_without_them() {
        let busy = std::thread::spawn(|| (0..200_000_u64).map(|n| n.to_string().len() as u64).sum::<u64>());
        for _ in 0..20 {
            assert!(let_go().expect("linux tells its mappings") > 0);
        }
        assert_eq!(busy.join().expect("it computes"), 1_088_890);
    }
}
