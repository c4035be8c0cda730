//! How the copying is divided: whole tables, and ranges of blocks of large ones, largest first.

use super::catalog::Table;

/// A large table is divided into pieces of about this many bytes.
const PIECE: u64 = 64 << 20;

/// `PostgreSQL`'s block size; a server built with another one still divides correctly, only less
/// evenly.
const BLOCK: u64 = 8192;

/// What one `COPY` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The table's position in the catalogue.
    pub(super) table: usize,
    /// From this block on, up to but without the other; `None` for all of the table.
    pub(super) blocks: Option<(u64, Option<u64>)>,
    /// An estimate, in bytes.
    pub(super) cost: u64,
}

/// Divides all tables. `by_blocks` says whether the server can read a range of blocks without
/// reading the rest.
pub(super) fn divide(tables: &[Table], by_blocks: bool) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = tables
        .iter()
        .enumerate()
        .flat_map(|(index, table)| divide_table(index, table, by_blocks))
        .collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.cost));
    pieces
}

fn divide_table(index: usize, table: &Table, by_blocks: bool) -> Vec<Piece> {
    let blocks = table.heap_bytes / BLOCK;
    // Rows may be in TOAST for the most part: the whole size decides into how many pieces, the
    // heap's blocks where they begin.
    let count = table.total_bytes.div_ceil(PIECE).min(blocks);
    if !by_blocks || count < 2 || table.condition.is_some() {
        return vec![Piece {
            table: index,
            blocks: None,
            cost: table.total_bytes,
        }];
    }
    (0..count)
        .map(|i| {
            let begin = blocks * i / count;
            // The last piece has no end: the table may have grown since it was measured.
            let end = (i + 1 < count).then(|| blocks * (i + 1) / count);
            Piece {
                table: index,
                blocks: Some((begin, end)),
                cost: table.total_bytes / count,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(heap_bytes: u64, total_bytes: u64) -> Table {
        Table {
            heap_bytes,
            total_bytes,
            ..Table::default()
        }
    }

    proptest! {
        #[test]
        fn pieces_cover_every_block_once(heap in 0u64..100_000, toast in 0u64..5_000_000_000) {
            let heap = heap * BLOCK;
            let pieces = divide(&[table(heap, heap + toast)], true);
            let mut ranges: Vec<_> = pieces.iter().filter_map(|p| p.blocks).collect();
            if ranges.is_empty() {
                prop_assert_eq!(pieces.len(), 1);
            } else {
                ranges.sort_unstable();
                prop_assert_eq!(ranges[0].0, 0);
                for pair in ranges.windows(2) {
                    prop_assert_eq!(pair[0].1, Some(pair[1].0));
                    prop_assert!(pair[0].0 < pair[1].0);
                }
                prop_assert_eq!(ranges[ranges.len() - 1].1, None);
            }
        }
    }

    #[test]
    fn the_largest_comes_first() {
        let pieces = divide(&[table(8192, 8192), table(1 << 30, 1 << 30)], true);
        assert_eq!(pieces.len(), 17);
        assert_eq!(pieces[16].table, 0);
    }
}
