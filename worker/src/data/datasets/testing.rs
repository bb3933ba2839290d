//! Tiny data sets in the published layouts, written by the tests themselves: scenes of known pixels, masks and labels.

use crate::metrics::masked_crc;
use flate2::Compression;
use flate2::write::GzEncoder;
use png::{BitDepth, ColorType};
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Value, json};
use std::fs;
use std::io::{Cursor, Write};
use std::ops::Range;
use std::path::Path;
use zip::write::SimpleFileOptions;

/// Columns and rows of the images; the centred square is columns 4 to 19.
pub(crate) const SIZE: (usize, usize) = (24, 16);
/// Side of the centred square.
pub(crate) const SIDE: usize = 16;

/// Names, and what is in the files.
pub(crate) type Content = Vec<(String, Vec<u8>)>;

/// A scene of which every pixel and label follows from a number.
#[derive(Clone, Copy)]
pub(crate) struct Scene(pub(crate) usize);

impl Scene {
    /// Number of objects; the first one is outside of the centred square.
    pub(crate) fn objects(self) -> usize {
        1 + self.0 % 3
    }

    fn pixel(self, x: usize, y: usize, channel: usize) -> u8 {
        (self.0 * 37 + x * 5 + y * 11 + channel * 83) as u8
    }

    pub(crate) fn instance(self, x: usize, y: usize) -> u8 {
        let object = x / 6;
        u8::from(x % 6 < 4 && object < self.objects() && (2..7 + self.0 % 5).contains(&y)) * (object as u8 + 1)
    }

    /// The image, RGB, of columns `from` and up.
    pub(crate) fn pixels(self, (width, height): (usize, usize), from: usize) -> Vec<u8> {
        let places = (0..height).flat_map(move |y| (from..from + width).map(move |x| (x, y)));
        places.flat_map(|(x, y)| [0, 1, 2].map(|channel| self.pixel(x, y, channel))).collect()
    }

    /// The mask, of columns `from` and up.
    pub(crate) fn mask(self, (width, height): (usize, usize), from: usize) -> Vec<u8> {
        let places = (0..height).flat_map(move |y| (from..from + width).map(move |x| (x, y)));
        places.map(|(x, y)| self.instance(x, y)).collect()
    }

    /// Pixels of an object (from 0) in the whole mask.
    pub(crate) fn area(self, object: usize) -> usize {
        self.mask(SIZE, 0).iter().filter(|instance| usize::from(**instance) == object + 1).count()
    }

    pub(crate) fn position(self, object: usize) -> [f32; 3] {
        [self.0 as f32, object as f32, 0.5]
    }

    pub(crate) fn rotation(self, object: usize) -> f32 {
        10.0 * self.0 as f32 + object as f32
    }

    /// An object as CLEVR and CLEVRTex describe it, and its codes of colour, material, shape and size.
    fn object(self, object: usize, materials: [&str; 2], shape: &str) -> Value {
        let colour = ["gray", "red"][object % 2];
        json!({
            "color": colour, "material": materials[object % 2], "shape": shape, "size": "small", "rotation": self.rotation(object),
            "3d_coords": self.position(object), "pixel_coords": [9.0, object, self.0],
        })
    }

    fn png(self) -> Vec<u8> {
        png(SIZE, ColorType::Rgb, BitDepth::Eight, &self.pixels(SIZE, 0))
    }
}

/// A PNG file; with a palette where that is the colour type.
pub(crate) fn png(size: (usize, usize), colour: ColorType, depth: BitDepth, pixels: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size.0 as u32, size.1 as u32);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == ColorType::Indexed {
        encoder.set_palette((0..48).map(|value| 255 - value).collect::<Vec<u8>>());
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(pixels).unwrap();
    writer.finish().unwrap();
    file
}

/// CLEVR v1.0 with scenes 0.. to train on, 100.. for validation, and test images without scenes.
pub(crate) fn clevr(train: usize, validation: usize) -> Content {
    let mut files = Vec::new();
    for (word, first, count) in [("train", 0, train), ("val", 100, validation), ("test", 200, 1)] {
        let image = |i: usize| format!("CLEVR_{word}_{i:06}.png");
        let numbers = || (0..count).map(|i| (i, Scene(first + i)));
        files.extend(numbers().map(|(i, scene)| (format!("CLEVR_v1.0/images/{word}/{}", image(i)), scene.png())));
        let object = |scene: Scene, k| scene.object(k, ["rubber", "metal"], "cylinder");
        let objects = |scene: Scene| (0..scene.objects()).map(|k| object(scene, k)).collect::<Vec<_>>();
        let scene =
            |(i, scene)| json!({"image_index": i, "image_filename": image(i), "objects": objects(scene), "relationships": {}});
        let scenes = json!({"info": {"split": word}, "scenes": numbers().map(scene).collect::<Vec<_>>()});
        if word != "test" {
            files.push((format!("CLEVR_v1.0/scenes/CLEVR_{word}_scenes.json"), scenes.to_string().into_bytes()));
        }
    }
    files
}

/// CLEVRTex with scenes 0.., in folders of three; masks have palettes of 8 or of 4 bits.
pub(crate) fn clevrtex(count: usize) -> Content {
    let files = (0..count).map(Scene).flat_map(|scene| {
        let begin = format!("clevrtex_full/{}/CLEVRTEX_full_{:06}", scene.0 / 3, scene.0);
        let mask = scene.mask(SIZE, 0);
        let mask = if scene.0 % 2 == 0 {
            png(SIZE, ColorType::Indexed, BitDepth::Eight, &mask)
        } else {
            let packed: Vec<u8> = mask.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
            png(SIZE, ColorType::Indexed, BitDepth::Four, &packed)
        };
        let object = |k: usize| {
            let mut object = scene.object(k, ["PoliigonBricks01", "of another variant"], "monkey");
            object["index"] = json!(k + 1);
            object
        };
        // In any order.
        let objects: Vec<_> = (0..scene.objects()).rev().map(object).collect();
        let labels = json!({"image_index": scene.0, "ground_material": "whitemarble", "objects": objects});
        [
            (format!("{begin}.png"), scene.png()),
            (format!("{begin}_flat.png"), mask),
            (format!("{begin}.json"), labels.to_string().into_bytes()),
            (format!("{begin}_depth_0001.png"), b"not read".to_vec()),
        ]
    });
    files.collect()
}

/// Frames of the videos of [`movi`] and [`movi_dump`].
pub(crate) const FRAMES: usize = 4;

/// Frame `frame` of video `video`; the number of objects is that of the video.
pub(crate) fn frame(video: usize, frame: usize) -> Scene {
    Scene(video + 3 * frame)
}

/// What MOVi says about an object in a frame.
pub(crate) fn visibility(video: usize, object: usize, frame: usize) -> usize {
    1000 * video + 10 * object + frame + 1
}

/// MOVi as TFRecord files: each list one split, of files of videos.
pub(crate) fn movi(train: &[Vec<usize>], validation: &[Vec<usize>]) -> Content {
    let mut files = Vec::new();
    for (split, videos) in [("train", train), ("validation", validation), ("test", &[vec![99]][..])] {
        for (i, file) in videos.iter().enumerate() {
            let name = format!("movi_e/256x256/1.0.0/movi_e-{split}.tfrecord-{i:05}-of-{:05}", videos.len());
            let records: Vec<Vec<u8>> = file.iter().map(|&video| movi_record(video)).collect();
            files.push((name, tfrecords(&records)));
        }
    }
    files
}

fn movi_record(video: usize) -> Vec<u8> {
    let objects = frame(video, 0).objects();
    let scenes = || (0..FRAMES).map(|t| frame(video, t));
    let each = |figure: fn(usize, usize, usize) -> f32, width: usize| {
        let places = (0..objects).flat_map(|k| (0..FRAMES).flat_map(move |t| (0..width).map(move |w| (k, t, w))));
        Feature::Floats(places.map(|(k, t, w)| figure(k, t, w)).collect())
    };
    let of_frames = || (0..objects).flat_map(|k| (0..FRAMES).map(move |t| visibility(video, k, t) as i64));
    let mask = |scene: Scene| png(SIZE, ColorType::Grayscale, BitDepth::Eight, &scene.mask(SIZE, 0));
    example(&[
        ("video", Feature::Strings(scenes().map(Scene::png).collect())),
        ("segmentations", Feature::Strings(scenes().map(mask).collect())),
        ("metadata/num_frames", Feature::Integers(vec![FRAMES as i64])),
        ("instances/category", Feature::Integers((0..objects as i64).map(|k| 3 + k).collect())),
        ("instances/is_dynamic", Feature::Integers((0..objects as i64).map(|k| k % 2).collect())),
        ("instances/visibility", Feature::Integers(of_frames().collect())),
        ("instances/scale", Feature::Floats((0..objects).map(|k| 0.75 + k as f32).collect())),
        ("instances/image_positions", each(|k, t, w| image_position(k, t)[w], 2)),
        ("instances/positions", each(|k, t, w| (100 * k + 10 * t + w) as f32, 3)),
        ("instances/quaternions", each(|k, t, w| (100 * k + 10 * t + w) as f32, 4)),
        ("instances/bboxes_3d", each(|k, t, w| (1000 * k + 100 * t + w) as f32, 24)),
        ("depth", Feature::Strings(vec![b"not read".to_vec(); FRAMES])),
    ])
}

pub(crate) fn image_position(object: usize, frame: usize) -> [f32; 2] {
    [0.1 * object as f32, 0.01 * frame as f32]
}

/// MOVi as the official script unpacks it.
pub(crate) fn movi_dump(train: &[usize], validation: &[usize]) -> Content {
    let mut files = Vec::new();
    for (split, videos) in [("train", train), ("validation", validation), ("test", &[99])] {
        let folder = format!("movi-e/movi-e-{split}-with-label");
        for (i, &video) in videos.iter().enumerate() {
            for t in 0..FRAMES {
                let scene = frame(video, t);
                let objects = 0..frame(video, 0).objects();
                let each = |figure: &dyn Fn(usize) -> Value| Value::Array(objects.clone().map(figure).collect());
                let figures = |k: usize, width: usize| (0..width).map(|w| json!(100 * k + 10 * t + w)).collect::<Vec<_>>();
                let corners = |k: usize| (0..8).map(|c| json!([0, 1, 2].map(|w| 1000 * k + 100 * t + 3 * c + w))).collect();
                let labels = json!({
                    "category": each(&|k| json!(3 + k)), "is_dynamic": each(&|k| json!(k % 2 == 1)),
                    "visibility": each(&|k| json!(visibility(video, k, t))), "scale": each(&|k| json!(0.75 + k as f32)),
                    "image_positions": each(&|k| json!(image_position(k, t))), "positions": each(&|k| figures(k, 3).into()),
                    "quaternions": each(&|k| figures(k, 4).into()), "bboxes_3d": each(&corners), "asset_id": each(&|_| json!("x")),
                });
                let mask = png(SIZE, ColorType::Grayscale, BitDepth::Eight, &scene.mask(SIZE, 0));
                let begin = format!("{i:08}/{t:08}");
                files.push((format!("{folder}/images/{begin}_image.png"), scene.png()));
                files.push((format!("{folder}/labels/{begin}_segment.png"), mask));
                files.push((format!("{folder}/labels/{begin}_instances.json"), labels.to_string().into_bytes()));
            }
        }
    }
    files
}

/// FFHQ with these numbers, as one kind of image or another.
pub(crate) fn ffhq(numbers: &[usize]) -> Content {
    let file = |&number: &usize| (format!("images1024x1024/{:05}/{number:05}.png", number / 1000 * 1000), Scene(number).png());
    numbers.iter().map(file).chain([("LICENSE.txt".to_owned(), b"CC".to_vec())]).collect()
}

/// Size of the images of [`clevr_masks`], which its layout fixes.
pub(crate) const MASKS_SIZE: (usize, usize) = (320, 240);

/// Mask entities of [`clevr_masks`].
const ENTITIES: usize = 11;

/// CLEVR with masks: the one file of records, gzipped. Images and masks are a string per byte, as published.
pub(crate) fn clevr_masks(count: usize) -> Vec<u8> {
    let singles = |bytes: Vec<u8>| Feature::Strings(bytes.into_iter().map(|byte| vec![byte]).collect());
    let record = |scene: Scene| {
        let instances = enlarged_mask(scene, 0..MASKS_SIZE.0);
        let entity = |entity: usize| instances.iter().map(move |&instance| u8::from(usize::from(instance) == entity) * 255);
        let visible = (0..ENTITIES).map(|entity| f32::from(u8::from(entity <= scene.objects()))).collect();
        let codes = || singles((0..ENTITIES).map(|entity| entity as u8).collect());
        let figures = |width: usize| Feature::Floats((0..ENTITIES * width).map(|i| (scene.0 * 1000 + i) as f32).collect());
        example(&[
            ("image", singles(scene.pixels(MASKS_SIZE, 0))),
            ("mask", singles((0..ENTITIES).flat_map(entity).collect())),
            ("visibility", Feature::Floats(visible)),
            ("color", codes()),
            ("material", codes()),
            ("shape", codes()),
            ("size", codes()),
            ("x", figures(1)),
            ("y", figures(1)),
            ("z", figures(1)),
            ("pixel_coords", figures(3)),
            ("rotation", figures(1)),
        ])
    };
    let records: Vec<_> = (0..count).map(|i| record(Scene(i))).collect();
    gzip(&tfrecords(&records))
}

/// Columns of the mask of a scene in [`clevr_masks`].
pub(crate) fn enlarged_mask(scene: Scene, columns: Range<usize>) -> Vec<u8> {
    let (width, height) = MASKS_SIZE;
    let places = (0..height).flat_map(|y| columns.clone().map(move |x| (x, y)));
    places.map(|(x, y)| scene.instance(x * SIZE.0 / width, y * SIZE.1 / height)).collect()
}

/// Writes files into a folder.
pub(crate) fn write(folder: &Path, files: &Content) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Packs files into a zip archive, images as they are and everything else deflated.
pub(crate) fn zip(files: &Content) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        let method = if name.ends_with(".png") { zip::CompressionMethod::Stored } else { zip::CompressionMethod::Deflated };
        archive.start_file(name, SimpleFileOptions::default().compression_method(method)).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Packs files into a tar archive.
pub(crate) fn tar(files: &Content) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Records as a TFRecord file.
pub(crate) fn tfrecords(records: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for record in records {
        let length = (record.len() as u64).to_le_bytes();
        file.extend(length);
        file.extend(masked_crc(&length).to_le_bytes());
        file.extend(record);
        file.extend(masked_crc(record).to_le_bytes());
    }
    file
}

/// The value of a feature of a `tf.train.Example`.
pub(crate) enum Feature {
    Strings(Vec<Vec<u8>>),
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

/// A `tf.train.Example` on the wire.
pub(crate) fn example(features: &[(&str, Feature)]) -> Vec<u8> {
    let mut map = Vec::new();
    for (name, feature) in features {
        let (tag, list) = match feature {
            Feature::Strings(values) => (1, values.iter().flat_map(|value| field(1, value)).collect()),
            Feature::Floats(values) => (2, field(1, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())),
            Feature::Integers(values) => {
                let mut packed = Vec::new();
                values.iter().for_each(|value| encode_varint(*value as u64, &mut packed));
                (3, field(1, &packed))
            }
        };
        let list: Vec<u8> = list;
        map.extend(field(1, &[field(1, name.as_bytes()), field(2, &field(tag, &list))].concat()));
    }
    field(1, &map)
}

/// A length-delimited field.
fn field(tag: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 6);
    encode_key(tag, WireType::LengthDelimited, &mut bytes);
    encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// An array as NumPy saves it.
pub(crate) fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}
