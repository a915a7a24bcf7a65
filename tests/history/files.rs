//! Histories as files: written by the actors while they run, read by the checker afterwards.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::record::{Record, What};

/// Where the actors of one run write.
#[derive(Clone)]
pub struct Histories {
    directory: PathBuf,
    began: Instant,
}

impl Histories {
    pub fn create(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.to_owned(), began: Instant::now() })
    }

    /// The file of one actor.
    pub fn of(&self, actor: &str) -> Journal {
        let file = File::create(self.directory.join(format!("{actor}.jsonl"))).expect("a file for a history");
        let inner = Inner { actor: actor.to_owned(), file: Mutex::new(BufWriter::new(file)) };
        Journal { began: self.began, inner: Arc::new(inner) }
    }

    /// Microseconds since the run began.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

struct Inner {
    actor: String,
    file: Mutex<BufWriter<File>>,
}

/// What one actor writes in. Cheap to clone; lines are whole whoever writes them.
#[derive(Clone)]
pub struct Journal {
    began: Instant,
    inner: Arc<Inner>,
}

impl Journal {
    /// Microseconds since the run began.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    pub fn actor(&self) -> &str {
        &self.inner.actor
    }

    /// Writes a line with the time of now.
    pub fn note(&self, what: What) {
        let mut file = self.inner.file.lock().expect("no writer panicked");
        // Taken with the lock held, so that the lines of a file are in the order of their times.
        let record = Record { t: self.now(), actor: self.inner.actor.clone(), what };
        serde_json::to_writer(&mut *file, &record).expect("a line of JSON");
        file.write_all(b"\n").expect("room for histories");
    }

    /// Puts what was written in the file.
    pub fn flush(&self) {
        self.inner.file.lock().expect("no writer panicked").flush().expect("room for histories");
    }
}

/// Everything that was written down, in the order of time.
#[derive(Clone, Default)]
pub struct History {
    pub records: Vec<Record>,
}

impl History {
    /// Reads all files of a directory.
    pub fn load(directory: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                let mut records = Vec::new();
                for line in BufReader::new(File::open(&path)?).lines() {
                    records.push(serde_json::from_str::<Record>(&line?)?);
                }
                files.insert(path, records);
            }
        }
        Ok(Self::of(files.into_values().flatten().collect()))
    }

    /// Sorted by time; the lines of an actor keep their order.
    pub fn of(mut records: Vec<Record>) -> Self {
        records.sort_by_key(|record| record.t);
        Self { records }
    }

    /// Writes it as files, as the actors would have.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let mut files: BTreeMap<&str, BufWriter<File>> = BTreeMap::new();
        for record in &self.records {
            if !files.contains_key(record.actor.as_str()) {
                let file = File::create(directory.join(format!("{}.jsonl", record.actor)))?;
                files.insert(&record.actor, BufWriter::new(file));
            }
            if let Some(file) = files.get_mut(record.actor.as_str()) {
                serde_json::to_writer(&mut *file, record)?;
                file.write_all(b"\n")?;
            }
        }
        files.values_mut().try_for_each(|file| file.flush())
    }

    /// The last moment of it.
    pub fn end(&self) -> u64 {
        self.records.last().map_or(0, |record| record.t)
    }
}
