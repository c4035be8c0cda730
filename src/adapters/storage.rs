//! What an archive is read from and written to: a file, an object of a store, or either of them
//! behind encryption. Nobody above needs to know which.

use super::fs::{PartialFile, create_private_file, create_private_folder, folder_of};
use crate::error::{Context, Error, Result};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that can be read anywhere, by many threads at once.
pub trait ReadAt: Send + Sync + std::fmt::Debug {
    /// Reads at `offset`; fewer bytes than asked for are an answer, and none are the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize>;

    /// Fills the buffer, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

/// The bytes of an archive that is a file, and how many there are.
pub fn open_file(path: &Path) -> Result<(Arc<dyn ReadAt>, u64)> {
    let file = File::open(path).map_err(|error| {
        Error::missing(format!("archive {} cannot be opened", path.display()))
            .because(error)
            .hint("`k1ops list` shows which archives there are.")
    })?;
    let size = file
        .metadata()
        .context(|| format!("archive {} cannot be read", path.display()))?
        .len();
    Ok((Arc::new(file), size))
}

/// Something new that is seen by others only once it is published. Dropped before that, it leaves
/// nothing behind.
pub trait Sink: Write + Send {
    /// Makes everything that was written durable and gives it its name, which must be free.
    fn publish(self: Box<Self>) -> Result<()>;
}

/// A file that is written beside its place.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    partial: PartialFile,
    place: PathBuf,
    replaces: bool,
}

impl NewFile {
    /// Begins a file at `place`, which must be free, as `partial`, which must be too.
    pub fn create(place: &Path, partial: PathBuf) -> Result<Self> {
        create_private_folder(folder_of(place))?;
        let file = create_private_file(&partial)?;
        Ok(Self {
            file,
            partial: PartialFile::new(partial),
            place: place.to_path_buf(),
            replaces: false,
        })
    }

    /// The same, to take the place of the file that is there.
    #[must_use]
    pub fn replacing(mut self) -> Self {
        self.replaces = true;
        self
    }
}

impl Write for NewFile {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.file.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Sink for NewFile {
    fn publish(self: Box<Self>) -> Result<()> {
        self.file
            .sync_all()
            .context(|| format!("{} cannot be synced", self.partial.path().display()))?;
        if self.replaces {
            self.partial.replace(&self.place)
        } else {
            self.partial.publish(&self.place)
        }
    }
}

/// What went wrong with a write, in terms of what to do.
#[must_use]
pub fn explain_write(place: &Path, error: Error) -> Error {
    if error
        .causes()
        .iter()
        .any(|cause| cause.contains("No space left"))
    {
        return Error::missing(format!("no space is left for {}", place.display()))
            .because(error)
            .hint("Free some space, or set repository.path to a larger file system.");
    }
    let hint = error.hint_text().map(str::to_owned);
    let failed = Error::failed(format!("{} cannot be written", place.display())).because(error);
    match hint {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}
