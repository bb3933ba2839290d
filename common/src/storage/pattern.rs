//! Names of several files at once, as shards are named: `train-{0000..0147}.tar`, `{a,b}-*.tar`.

use std::collections::HashSet;

use super::Entry;

/// The files of one folder that a pattern names: `*` is any text, `?` one character, `{a,b}` one of these, `{000..147}` one of these
/// numbers, as wide as the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Without braces.
    names: Vec<String>,
}

impl Pattern {
    /// Folder and pattern of a path or URL whose last part names several files.
    pub fn split(url: &str) -> Option<(&str, Self)> {
        let (folder, name) = url.rsplit_once('/').unwrap_or((".", url));
        let folder = if folder.is_empty() { "/" } else { folder };
        name.contains(['*', '?', '{']).then(|| (folder, Self { names: expanded(name) }))
    }

    /// The files that it names, in their order.
    ///
    /// # Errors
    /// The first name without braces that no file has.
    pub fn select(&self, entries: Vec<Entry>) -> Result<Vec<Entry>, String> {
        let there: HashSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let mut found = HashSet::new();
        for name in &self.names {
            let before = found.len();
            if !name.contains(['*', '?']) {
                found.extend(there.get(name.as_str()));
            } else {
                found.extend(there.iter().filter(|there| matches(name.as_bytes(), there.as_bytes())));
            }
            if found.len() == before {
                return Err(name.clone());
            }
        }
        let found: HashSet<String> = found.into_iter().map(str::to_owned).collect();
        Ok(entries.into_iter().filter(|entry| found.contains(&entry.name)).collect())
    }
}

/// The names that braces stand for.
fn expanded(name: &str) -> Vec<String> {
    let whole = || vec![name.to_owned()];
    let Some((begin, rest)) = name.split_once('{') else { return whole() };
    let Some((inside, end)) = rest.split_once('}') else { return whole() };
    let choices: Vec<String> = match numbers(inside) {
        Some(numbers) => numbers,
        None => inside.split(',').map(str::to_owned).collect(),
    };
    let ends = expanded(end);
    choices.iter().flat_map(|choice| ends.iter().map(move |end| format!("{begin}{choice}{end}"))).collect()
}

/// `000..147`
fn numbers(inside: &str) -> Option<Vec<String>> {
    let (first, last) = inside.split_once("..")?;
    let [from, to] = [first, last].map(|number| number.parse::<u32>().ok());
    Some((from?..=to?).map(|number| format!("{number:0width$}", width = first.len())).collect())
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, _) => name.is_empty(),
        (Some((b'*', rest)), None) => matches(rest, name),
        (Some((b'*', rest)), Some((first, after))) => matches(rest, name) || (*first != b'/' && matches(pattern, after)),
        (Some((wanted, rest)), Some((first, after))) => {
            (wanted == first || (*wanted == b'?' && *first != b'/')) && matches(rest, after)
        }
        (Some(_), None) => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn select(url: &str, names: &[&str]) -> Result<Vec<String>, String> {
        let entries = names.iter().map(|name| Entry { name: (*name).to_owned(), size: 0 }).collect();
        let (_, pattern) = Pattern::split(url).unwrap();
        Ok(pattern.select(entries)?.into_iter().map(|entry| entry.name).collect())
    }

    #[test]
    fn shards_are_named_as_elsewhere() {
        let names = ["a-08.tar", "a-09.tar", "a-10.tar", "a-9.tar", "b-1.tar", "c/a-1.tar", "readme"];
        assert_eq!(select("s3://x/y/a-{08..10}.tar", &names).unwrap(), ["a-08.tar", "a-09.tar", "a-10.tar"]);
        assert_eq!(select("{a,b}-?.tar", &names).unwrap(), ["a-9.tar", "b-1.tar"]);
        assert_eq!(select("/*.tar", &names).unwrap().len(), 5, "of this folder only");
        assert_eq!(select("a-{07..09}.tar", &names).unwrap_err(), "a-07.tar");
        assert_eq!(select("d*.tar", &names).unwrap_err(), "d*.tar");
        assert_eq!(Pattern::split("s3://x/y/a.tar"), None);
        let folder = |url| Pattern::split(url).unwrap().0;
        assert_eq!([folder("s3://x/y/*"), folder("/*"), folder("*")], ["s3://x/y", "/", "."]);
    }
}
