//! The pictures of a run that its report holds: complete, of a known kind, and few enough that the page stays small.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use common::run_dir::RunDir;

use super::facts::Picture;

/// Bytes that one picture may have.
const LARGEST: u64 = 6 << 20;
/// Bytes that all of them may have.
const ALL: u64 = 24 << 20;

/// The pictures, by name, and those that are left out with the reason.
pub(super) fn gather(run: &RunDir) -> (Vec<Picture>, Vec<(String, String)>) {
    let entries = match std::fs::read_dir(run.pictures()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), Vec::new()),
        Err(error) => return (Vec::new(), vec![("pictures".into(), error.to_string())]),
        Ok(entries) => entries,
    };
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files.extend(newest_while_training(run));
    let (mut pictures, mut left_out, mut room) = (Vec::new(), Vec::new(), ALL);
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The half-written file of a worker that is replacing a picture.
        if name.ends_with(".tmp") {
            continue;
        }
        match picture(&path, room.min(LARGEST)) {
            Ok((media, bytes)) => {
                room = room.saturating_sub(bytes.len() as u64);
                pictures.push(Picture { name, media, size: size(&bytes), bytes });
            }
            Err(reason) => left_out.push((name, reason)),
        }
    }
    (pictures, left_out)
}

/// The last one of those that training has drawn.
fn newest_while_training(run: &RunDir) -> Option<PathBuf> {
    let files = std::fs::read_dir(run.training_pictures()).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "png")).max()
}

/// The type and bytes of a picture, or why it is left out.
fn picture(path: &Path, room: u64) -> Result<(&'static str, Vec<u8>), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(room + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let media = media(&bytes).ok_or("not a PNG, JPEG or WebP picture")?;
    if bytes.len() as u64 > room {
        let limit = if room < LARGEST { "what is left of the room for all pictures" } else { "what a picture may have" };
        return Err(format!("larger than {limit} ({} MiB)", room >> 20));
    }
    Ok((media, bytes))
}

/// What the first bytes say that it is.
fn media(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

/// Width and height of a PNG.
fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    (media(bytes) == Some("image/png") && bytes.get(12..16) == Some(b"IHDR")).then_some(())?;
    number(16).zip(number(20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn png(width: u32, bytes: usize) -> Vec<u8> {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        png.extend([width.to_be_bytes(), 9_u32.to_be_bytes()].concat());
        png.resize(bytes.max(png.len()), 0);
        png
    }

    #[test]
    fn pictures_are_bounded_and_those_left_out_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        assert_eq!(gather(&run), (Vec::new(), Vec::new()));
        fs::create_dir(run.pictures()).unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(run.pictures().join(name), bytes).unwrap();
        write("b.png", &png(7, 0));
        write("a.webp", b"RIFF\0\0\0\0WEBPVP8 ");
        write("c.png", b"<svg onload='alert(1)'>");
        write("d.png", &png(7, LARGEST as usize + 1));
        write("e.png.1.tmp", &png(7, 0));
        fs::create_dir(run.training_pictures()).unwrap();
        [900, 12_000].iter().for_each(|step| fs::write(run.training_picture(*step), png(7, 0)).unwrap());
        fs::write(run.training_pictures().join("step-00013000.png.1.tmp"), "half").unwrap();
        (0..4).for_each(|index| write(&format!("f{index}.png"), &png(7, LARGEST as usize)));
        let (pictures, left_out) = gather(&run);
        let shown: Vec<_> = pictures.iter().map(|picture| (picture.name.as_str(), picture.media, picture.size)).collect();
        let png = |name| (name, "image/png", Some((7, 9)));
        assert_eq!(
            shown,
            [("a.webp", "image/webp", None), png("b.png"), png("f0.png"), png("f1.png"), png("f2.png"), png("step-00012000.png")]
        );
        let left: Vec<&str> = left_out.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(left, ["c.png", "d.png", "f3.png"]);
        assert!(left_out[1].1.contains("6 MiB") && left_out[2].1.contains("all pictures"), "{left_out:?}");
    }
}
