//! Tables that are read at a glance: a head, rows, two spaces between columns, no lines.

use unicode_width::UnicodeWidthStr as _;

use super::human::clean;

/// A table of text.
#[derive(Debug, Clone, Default)]
pub struct Table {
    head: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names. A name that begins with `>` is set, with its column, to the right.
    pub fn new(head: &[&'static str]) -> Self {
        let right = head.iter().map(|name| name.starts_with('>')).collect();
        Self { head: head.iter().map(|name| name.trim_start_matches('>')).collect(), right, rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are columns. Line breaks in a cell become spaces.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| clean(&cell).replace(['\n', '\t'], " ")).collect();
        debug_assert_eq!(cells.len(), self.head.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, each line ended. A column without content is left out.
    pub fn render(&self) -> String {
        let columns: Vec<usize> = (0..self.head.len())
            .filter(|column| self.rows.iter().any(|row| row.get(*column).is_some_and(|cell| !cell.is_empty())))
            .collect();
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let head: Vec<String> = self.head.iter().map(|name| (*name).to_owned()).collect();
        let lines = || std::iter::once(&head).chain(&self.rows);
        let width = |column: usize| lines().map(|row| cell(row, column).width()).max().unwrap_or_default();
        let widths: Vec<(usize, usize)> = columns.iter().map(|column| (*column, width(*column))).collect();
        let mut text = String::new();
        for row in lines() {
            let cells = widths.iter().map(|(column, width)| {
                let content = cell(row, *column);
                let padding = " ".repeat(width.saturating_sub(content.width()));
                let right = self.right.get(*column).copied().unwrap_or_default();
                if right { padding + &content } else { content + &padding }
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_ones_are_left_out() {
        let mut table = Table::new(&["NAME", ">SIZE", "NOTE", "SITE"]);
        table.row(["dätabase".to_owned(), "1 GiB".to_owned(), String::new(), "a".to_owned()]);
        table.row(["日本".to_owned(), "512 MiB".to_owned(), String::new(), "b\nc".to_owned()]);
        assert_eq!(table.render(), "NAME         SIZE  SITE\ndätabase    1 GiB  a\n日本      512 MiB  b c\n");
    }
}
