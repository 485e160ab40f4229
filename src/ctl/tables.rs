//! Rows and columns in the four output formats.

use serde_json::{Map, Value};

use super::{json, yaml};

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Pretty,
    /// A table with the tree of replication in the first column.
    Topology,
    /// Tab-separated values with a header.
    Tsv,
    /// A list of objects in one line.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Format {
    /// The format of an option value that the parser has accepted; `pretty` where none was given.
    #[must_use]
    pub fn of(name: Option<&str>) -> Format {
        match name {
            Some("tsv") => Format::Tsv,
            Some("json") => Format::Json,
            Some("yaml" | "yml") => Format::Yaml,
            _ => Format::Pretty,
        }
    }

    /// Whether people read it.
    #[must_use]
    pub fn is_table(self) -> bool {
        matches!(self, Format::Pretty | Format::Topology)
    }
}

/// A table in the making.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Goes into the upper border; its presence marks a list of members, where empty cells are left out of JSON and YAML.
    pub title: Option<String>,
    /// Column names.
    pub columns: Vec<String>,
    /// Names of the columns that are aligned to the right.
    pub right: &'static [&'static str],
    /// Cells, in the order of the columns.
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    /// The text, without a line break at its end.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        self.render_with(format, "\t")
    }

    /// [`Table::render`] with another separator between the values of [`Format::Tsv`].
    #[must_use]
    pub fn render_with(&self, format: Format, separator: &str) -> String {
        match format {
            Format::Json => json::dumps(&self.objects()),
            Format::Yaml => yaml::block(&self.objects()),
            Format::Tsv => self.tsv(separator),
            Format::Pretty | Format::Topology => self.pretty(),
        }
    }

    fn objects(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let cells = self.columns.iter().cloned().zip(row.iter().cloned());
            cells.filter(|(_, cell)| self.title.is_none() || cell != "").collect::<Map<_, _>>()
        };
        self.rows.iter().map(|row| Value::Object(object(row))).collect()
    }

    fn tsv(&self, separator: &str) -> String {
        let header = self.columns.join(separator);
        let rows = self.rows.iter().map(|row| row.iter().map(cell_text).collect::<Vec<_>>().join(separator));
        std::iter::once(header).chain(rows).collect::<Vec<_>>().join("\n")
    }

    fn pretty(&self) -> String {
        let cells: Vec<Vec<Vec<String>>> =
            self.rows.iter().map(|row| row.iter().map(|cell| cell_text(cell).split('\n').map(str::to_owned).collect()).collect()).collect();
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| self.width(at, &cells)).collect();
        let rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+";
        let separated = cells.iter().flatten().any(|cell| cell.len() > 1);
        let mut lines = vec![self.upper_border(&rule)];
        let header: Vec<Vec<String>> = self.columns.iter().map(|name| vec![name.clone()]).collect();
        self.push_row(&header, &widths, &mut lines);
        lines.push(rule.clone());
        for (at, row) in cells.iter().enumerate() {
            if separated && at > 0 {
                lines.push(rule.clone());
            }
            self.push_row(row, &widths, &mut lines);
        }
        lines.push(rule);
        lines.join("\n")
    }

    fn width(&self, at: usize, cells: &[Vec<Vec<String>>]) -> usize {
        let column = cells.iter().filter_map(|row| row.get(at)).flatten();
        column.chain([&self.columns[at]]).map(|line| line.chars().count()).max().unwrap_or(0)
    }

    fn upper_border(&self, rule: &str) -> String {
        let title: String = self.title.as_deref().unwrap_or("").chars().take(rule.len().saturating_sub(2)).collect();
        format!("+{title}{}", &rule[1 + title.chars().count()..])
    }

    fn push_row(&self, row: &[Vec<String>], widths: &[usize], lines: &mut Vec<String>) {
        let height = row.iter().map(Vec::len).max().unwrap_or(1);
        for at in 0..height {
            let mut line = String::from("|");
            for ((cell, width), name) in row.iter().zip(widths).zip(&self.columns) {
                let text = cell.get(at).map_or("", String::as_str);
                let fill = " ".repeat(width.saturating_sub(text.chars().count()));
                let (left, right) = if self.right.contains(&name.as_str()) { (fill.as_str(), "") } else { ("", fill.as_str()) };
                line.push_str(&format!(" {left}{text}{right} |"));
            }
            lines.push(line);
        }
    }
}

/// A cell as text in tables.
fn cell_text(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.clone(),
        Value::Null => "None".to_owned(),
        Value::Bool(flag) => if *flag { "True" } else { "False" }.to_owned(),
        Value::Number(number) => json::number_text(number),
        other => json::dumps(other),
    }
}
