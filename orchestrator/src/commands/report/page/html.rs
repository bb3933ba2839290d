//! Markup that cannot be broken by what it shows: whatever comes from outside is text, and text is escaped in this one place.

/// A piece of a page that is well-formed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Html(String);

impl Html {
    /// A text as it is to be read. Characters that no HTML document may have are left out.
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        let mut escaped = String::new();
        for letter in text.as_ref().chars() {
            match letter {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&quot;"),
                '\'' => escaped.push_str("&#39;"),
                '\n' | '\t' => escaped.push(letter),
                letter if letter.is_control() || letter == '\u{fffe}' || letter == '\u{ffff}' => {}
                letter => escaped.push(letter),
            }
        }
        Self(escaped)
    }

    /// An element; the values of its attributes are texts.
    pub(super) fn element(name: &'static str, attributes: &[(&'static str, &str)], content: impl Into<Self>) -> Self {
        let Self(mut html) = Self::open(name, attributes);
        html += &content.into().0;
        html += &format!("</{name}>");
        Self(html)
    }

    /// An element that has no content, as `img`.
    pub(super) fn open(name: &'static str, attributes: &[(&'static str, &str)]) -> Self {
        let mut html = format!("<{name}");
        for (attribute, value) in attributes {
            html += &format!(" {attribute}=\"{}\"", Self::text(value).0);
        }
        Self(html + ">")
    }

    /// Markup of this program, as the style sheet.
    pub(super) fn trusted(markup: &'static str) -> Self {
        Self(markup.to_owned())
    }

    /// One piece after the other.
    pub(super) fn and(mut self, next: impl Into<Self>) -> Self {
        self.0 += &next.into().0;
        self
    }

    /// The markup.
    pub(super) fn into_string(self) -> String {
        self.0
    }
}

impl From<&str> for Html {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Html {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<I: IntoIterator<Item = Html>>(pieces: I) -> Self {
        Self(pieces.into_iter().map(|piece| piece.0).collect())
    }
}

/// A paragraph.
pub(super) fn paragraph(text: impl Into<Html>) -> Html {
    Html::element("p", &[], text)
}

/// A part of the page under a heading of its own.
pub(super) fn section(id: &'static str, title: &str, content: Html) -> Html {
    let heading = Html::element("h2", &[("id", id)], title);
    Html::element("section", &[("aria-labelledby", id)], heading.and(content))
}

/// Names and what is known of them.
pub(super) fn pairs<T: AsRef<str>>(pairs: &[(T, String)]) -> Html {
    let pair = |(name, value): &(T, String)| {
        let name = Html::element("dt", &[], name.as_ref());
        Html::element("div", &[], name.and(Html::element("dd", &[], value.as_str())))
    };
    Html::element("dl", &[], pairs.iter().map(pair).collect::<Html>())
}

/// Rows under a header. The first column names its row. It scrolls by itself where the screen is narrow.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<Html>>) -> Html {
    let head: Html = header.iter().map(|name| Html::element("th", &[("scope", "col")], *name)).collect();
    let row = |cells: Vec<Html>| {
        let cell = |(index, cell): (usize, Html)| match index {
            0 => Html::element("th", &[("scope", "row")], cell),
            _ => Html::element("td", &[], cell),
        };
        Html::element("tr", &[], cells.into_iter().enumerate().map(cell).collect::<Html>())
    };
    let head = Html::element("thead", &[], Html::element("tr", &[], head));
    let body = Html::element("tbody", &[], rows.into_iter().map(row).collect::<Html>());
    Html::element("div", &[("class", "wide")], Html::element("table", &[], head.and(body)))
}

/// Something that is shown when it is asked for.
pub(super) fn details(summary: &str, content: Html) -> Html {
    Html::element("details", &[], Html::element("summary", &[], summary).and(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let hostile = "</td><script>alert('\"&\u{0}\u{1b}')</script>";
        let escaped = "&lt;/td&gt;&lt;script&gt;alert(&#39;&quot;&amp;&#39;)&lt;/script&gt;";
        assert_eq!(Html::element("p", &[], hostile).into_string(), format!("<p>{escaped}</p>"));
        assert_eq!(Html::open("img", &[("alt", hostile)]).into_string(), format!("<img alt=\"{escaped}\">"));
        let cells = vec![vec![hostile.into(), hostile.into()]];
        for markup in [pairs(&[(hostile, hostile.to_owned())]), table(&[hostile], cells), details(hostile, hostile.into())] {
            let markup = markup.into_string();
            assert!(!markup.contains("<script") && markup.matches(escaped).count() >= 2, "{markup}");
        }
    }
}
