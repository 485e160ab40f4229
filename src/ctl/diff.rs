//! A unified diff as Python's `difflib` makes it: longest common block first, three lines of context.

/// A run of equal lines: where it is on the left, on the right, and how long.
type Block = (usize, usize, usize);

const CONTEXT: usize = 3;

/// The lines of the diff, without line breaks; none where the texts are equal.
#[must_use]
pub fn unified(before: &str, after: &str) -> Vec<String> {
    let left: Vec<&str> = before.trim_end_matches('\n').split('\n').collect();
    let right: Vec<&str> = after.trim_end_matches('\n').split('\n').collect();
    let mut blocks = Vec::new();
    matching(&left, &right, (0, left.len()), (0, right.len()), &mut blocks);
    let groups = grouped(&changes(&blocks, left.len(), right.len()));
    if groups.is_empty() {
        return Vec::new();
    }
    let mut lines = vec!["--- ".to_owned(), "+++ ".to_owned()];
    for group in groups {
        hunk(&group, &left, &right, &mut lines);
    }
    lines
}

/// Equal blocks in order, by dividing at the longest one.
fn matching(left: &[&str], right: &[&str], (a, a_end): (usize, usize), (b, b_end): (usize, usize), blocks: &mut Vec<Block>) {
    let (i, j, size) = longest(left, right, (a, a_end), (b, b_end));
    if size == 0 {
        return;
    }
    matching(left, right, (a, i), (b, j), blocks);
    match blocks.last_mut() {
        Some(last) if (last.0 + last.2, last.1 + last.2) == (i, j) => last.2 += size,
        _ => blocks.push((i, j, size)),
    }
    matching(left, right, (i + size, a_end), (j + size, b_end), blocks);
}

fn longest(left: &[&str], right: &[&str], (a, a_end): (usize, usize), (b, b_end): (usize, usize)) -> Block {
    let mut best = (a, b, 0);
    let mut previous = vec![0; b_end - b + 1];
    for (i, line) in left.iter().enumerate().take(a_end).skip(a) {
        let mut current = vec![0; b_end - b + 1];
        for (at, other) in right[b..b_end].iter().enumerate() {
            if line == other {
                let size = previous[at] + 1;
                current[at + 1] = size;
                if size > best.2 {
                    best = (i + 1 - size, b + at + 1 - size, size);
                }
            }
        }
        previous = current;
    }
    best
}

/// A stretch of both sides: equal or not.
#[derive(Clone, Copy, Debug)]
struct Change {
    equal: bool,
    left: (usize, usize),
    right: (usize, usize),
}

fn changes(blocks: &[Block], left_len: usize, right_len: usize) -> Vec<Change> {
    let (mut i, mut j) = (0, 0);
    let mut all = Vec::new();
    for (a, b, size) in blocks.iter().copied().chain([(left_len, right_len, 0)]) {
        if i < a || j < b {
            all.push(Change { equal: false, left: (i, a), right: (j, b) });
        }
        if size > 0 {
            all.push(Change { equal: true, left: (a, a + size), right: (b, b + size) });
        }
        (i, j) = (a + size, b + size);
    }
    all
}

/// Splits at long equal stretches and trims them to the context.
fn grouped(changes: &[Change]) -> Vec<Vec<Change>> {
    if changes.iter().all(|change| change.equal) {
        return Vec::new();
    }
    let mut groups = Vec::new();
    let mut group: Vec<Change> = Vec::new();
    for (at, change) in changes.iter().copied().enumerate() {
        if !change.equal {
            group.push(change);
            continue;
        }
        let length = change.left.1 - change.left.0;
        let tail = |keep: usize| Change {
            equal: true,
            left: (change.left.1 - keep.min(length), change.left.1),
            right: (change.right.1 - keep.min(length), change.right.1),
        };
        let head = |keep: usize| Change {
            equal: true,
            left: (change.left.0, change.left.0 + keep.min(length)),
            right: (change.right.0, change.right.0 + keep.min(length)),
        };
        let (first, last) = (at == 0, at + 1 == changes.len());
        if first {
            group.push(tail(CONTEXT));
        } else if last {
            group.push(head(CONTEXT));
        } else if length > 2 * CONTEXT {
            group.push(head(CONTEXT));
            groups.push(std::mem::take(&mut group));
            group.push(tail(CONTEXT));
        } else {
            group.push(change);
        }
    }
    groups.push(group);
    groups
}

fn range((start, end): (usize, usize)) -> String {
    match end - start {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        length => format!("{},{length}", start + 1),
    }
}

fn hunk(group: &[Change], left: &[&str], right: &[&str], lines: &mut Vec<String>) {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
    lines.push(format!("@@ -{} +{} @@", range((first.left.0, last.left.1)), range((first.right.0, last.right.1))));
    for change in group {
        let before = &left[change.left.0..change.left.1];
        if change.equal {
            lines.extend(before.iter().map(|line| format!(" {line}")));
        } else {
            lines.extend(before.iter().map(|line| format!("-{line}")));
            lines.extend(right[change.right.0..change.right.1].iter().map(|line| format!("+{line}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unified;

    #[test]
    fn shows_what_changes() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
        let after = "a\nB\nc\nd\ne\nf\ng\nh\ni\nj\nk\n";
        let expected = "--- \n+++ \n@@ -1,5 +1,5 @@\n a\n-b\n+B\n c\n d\n e\n@@ -8,3 +8,4 @@\n h\n i\n j\n+k";
        assert_eq!(unified(before, after).join("\n"), expected);
        assert_eq!(unified("a\n", "b\n").join("\n"), "--- \n+++ \n@@ -1 +1 @@\n-a\n+b");
        assert!(unified(before, before).is_empty());
    }
}
