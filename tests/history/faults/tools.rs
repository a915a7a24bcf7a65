//! Tools of the machine that some faults need; where one is missing the fault is left out, and that is said.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What this machine can do.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    /// strace that can inject errors, and may trace.
    pub strace: bool,
    /// The library that fakes the wall clock.
    pub faketime: Option<PathBuf>,
    /// A file system of a given size can be mounted.
    pub tmpfs: bool,
    /// What is missing, and why.
    pub missing: Vec<String>,
}

impl Tools {
    /// Looks, and tries each.
    pub fn find(scratch: &Path) -> Self {
        let mut tools = Self::default();
        tools.strace = runs(Command::new("strace").args(["-D", "-f", "-e", "trace=fdatasync", "-o", "/dev/null", "true"]));
        if !tools.strace {
            tools.missing.push("sync_fails: strace is not installed, or may not trace".to_owned());
        }
        let libraries = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
        let names = libraries.iter().map(|directory| Path::new(directory).join("faketime/libfaketime.so.1"));
        tools.faketime = names.into_iter().find(|path| path.exists());
        if tools.faketime.is_none() {
            tools.missing.push("clock_jump: libfaketime is not installed".to_owned());
        }
        let place = scratch.join("mount-test");
        tools.tmpfs = Mount::new(&place, 1 << 20).is_some();
        let _ = std::fs::remove_dir(&place);
        if !tools.tmpfs {
            tools.missing.push("disk_full: a tmpfs cannot be mounted (not root?)".to_owned());
        }
        tools
    }
}

fn runs(command: &mut Command) -> bool {
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A small file system; unmounted when dropped.
pub struct Mount {
    pub path: PathBuf,
}

impl Mount {
    /// Mounts a tmpfs of so many bytes. None where that is not allowed.
    pub fn new(path: &Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(path).ok()?;
        let options = format!("size={bytes},mode=0700");
        let mounted = runs(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "heartwire-test"]).arg(path));
        mounted.then(|| Self { path: path.to_owned() })
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        use std::io::Write as _;
        let Ok(mut file) = std::fs::File::create(self.ballast()) else { return };
        for size in [64 * 1024, 4096, 512] {
            let block = vec![7u8; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    /// Gives the room back.
    pub fn empty(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The process may need a moment to let go of it.
        for _ in 0..20 {
            if runs(Command::new("umount").arg(&self.path)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = runs(Command::new("umount").arg("-l").arg(&self.path));
    }
}
