//! Curves over steps.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph};

use crate::coordinator::significant;

/// Share of the values that lie within the picture: a first loss far above all others would flatten them.
const WITHIN: f64 = 0.98;

/// Paints a curve with its newest value in the title, or says that there is nothing yet.
pub(super) fn curve(frame: &mut Frame<'_>, area: Rect, name: &str, points: &[(f64, f64)], colour: Color) {
    let [.., (_, newest)] = points else {
        frame.render_widget(Paragraph::new("no records yet").block(Block::bordered().title(format!(" {name} "))), area);
        return;
    };
    let block = Block::bordered().title(format!(" {name} {} ", significant(*newest)));
    let (low, high) = bounds(points);
    let (from, to) = (points[0].0, points[points.len() - 1].0.max(points[0].0 + 1.0));
    let grey = Style::new().fg(Color::DarkGray);
    let label = |value: f64| Line::from(significant(value));
    let step = |value: f64| Line::from(format!("{value:.0}"));
    let data = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(Style::new().fg(colour)).data(points);
    let chart = Chart::new(vec![data])
        .block(block)
        .x_axis(Axis::default().style(grey).bounds([from, to]).labels([step(from), step(to)]))
        .y_axis(Axis::default().style(grey).bounds([low, high]).labels([label(low), label(high)]));
    frame.render_widget(chart, area);
}

/// The lowest value, and one that few are above.
fn bounds(points: &[(f64, f64)]) -> (f64, f64) {
    let mut values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    let (low, high) = (values[0], values[(last as f64 * WITHIN).ceil() as usize]);
    if high > low { (low, high) } else { (low - 0.5 * low.abs().max(1e-9), high + 0.5 * high.abs().max(1e-9)) }
}
