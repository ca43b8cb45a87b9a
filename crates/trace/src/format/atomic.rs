//! Writing a file so that its final name never stands for half of it.
//!
//! The bytes go to a temporary file in the same folder, are synced, and get the final name by rename(2), which POSIX makes
//! atomic. On any failure (a full disk, no permission) the temporary file is removed and what stood under the
//! final name before is untouched. Only a regular file is replaced, never a device, pipe or folder; a symbolic link is replaced
//! itself.

use std::{io::Write, path::Path};

use crate::error::TraceError;

/// Writes `bytes` under `path`.
pub(crate) fn save(path: &Path, bytes: &[u8]) -> Result<(), TraceError> {
    // The rename would replace a device or a pipe by a file.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        let refused = std::io::Error::other("not a regular file");
        return Err(TraceError::io(path, "write", refused));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".lmt-")
        .tempfile_in(folder)
        .map_err(|e| TraceError::io(path, "create a temporary file beside it", e))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(|e| TraceError::io(path, "write", e))?;
    // A temporary file is private to its owner; a trace is ordinary data.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file()
            .set_permissions(std::fs::Permissions::from_mode(0o644))
            .map_err(|e| TraceError::io(path, "set the mode of", e))?;
    }
    file.persist(path)
        .map_err(|e| TraceError::io(path, "rename the finished file to", e.error))?;
    Ok(())
}
