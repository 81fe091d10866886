//! Finds several byte strings at once (Aho and Corasick), one byte at a time.

/// A state: how much of which string the last bytes are. Numbered by depth.
pub(super) type State = u32;

/// Set in what [`Automaton::next`] gives when a string ends there.
pub(super) const ENDS: State = 1 << 31;

/// Nothing of any string.
pub(super) const ROOT: State = 0;

/// States with a row of their own, the shallow ones: where a scan of anything
/// but secrets spends its time. 512 rows are half a MiB.
const MOST_ROWS: usize = 512;

/// Bytes that are looked at one by one before many are looked at at once.
const NEAR: usize = 16;

/// The strings.
pub(super) struct Automaton {
    /// For each state below `rows`, the next state for each byte.
    table: Vec<State>,
    rows: State,
    nodes: Vec<Node>,
    /// The byte that leads into each state.
    labels: Vec<u8>,
    /// The bytes that lead out of the root.
    starts: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Node {
    /// The state of the longest proper end of this one's string.
    fallback: State,
    /// Its children are neighbours.
    first_child: State,
    children: u16,
    depth: u32,
    /// The length of the longest string that ends here; 0 if none does.
    longest: u32,
}

impl Automaton {
    /// Of strings that are not empty.
    pub(super) fn new(mut strings: Vec<Vec<u8>>) -> Self {
        strings.sort_unstable();
        strings.dedup();
        let (mut nodes, labels) = trie(&strings);
        fall_back(&mut nodes, &labels);
        let mut automaton = Self {
            table: Vec::new(),
            rows: 0,
            starts: starts(&nodes, &labels),
            nodes,
            labels,
        };
        automaton.fill_table();
        automaton
    }

    fn fill_table(&mut self) {
        let rows = self.nodes.len().min(MOST_ROWS);
        let mut table = vec![ROOT; rows * 256];
        for state in 0..rows {
            let node = self.nodes[state];
            // A shallower state, so its row is there.
            let fallback = node.fallback as usize * 256;
            table.copy_within(fallback..fallback + 256, state * 256);
            for child in node.first_child..node.first_child + State::from(node.children) {
                let byte = usize::from(self.labels[child as usize]);
                table[state * 256 + byte] = self.marked(child);
            }
        }
        self.table = table;
        self.rows = State::try_from(rows).expect("a small constant bounds it");
    }

    /// The state after one more byte, with [`ENDS`].
    #[inline]
    pub(super) fn next(&self, state: State, byte: u8) -> State {
        match self.table.get(state as usize * 256 + usize::from(byte)) {
            Some(next) => *next,
            None => self.next_deep(state, byte),
        }
    }

    fn next_deep(&self, mut state: State, byte: u8) -> State {
        while state >= self.rows {
            if let Some(child) = child(&self.nodes, &self.labels, state, byte) {
                return self.marked(child);
            }
            state = self.nodes[state as usize].fallback;
        }
        self.table[state as usize * 256 + usize::from(byte)]
    }

    fn marked(&self, state: State) -> State {
        if self.longest(state) > 0 {
            state | ENDS
        } else {
            state
        }
    }

    /// How many of the last bytes are the beginning of a string.
    pub(super) fn depth(&self, state: State) -> u32 {
        self.nodes[state as usize].depth
    }

    /// The length of the longest string that ends here; 0 if none does.
    pub(super) fn longest(&self, state: State) -> u32 {
        self.nodes[state as usize].longest
    }

    /// Where the first byte stands that leads out of the root.
    #[inline]
    pub(super) fn find_start(&self, bytes: &[u8]) -> Option<usize> {
        // The next one is often near, and a call is dearer than a few looks.
        let near = bytes.len().min(NEAR);
        let leads_out = |byte: &u8| self.table[usize::from(*byte)] != ROOT;
        if let Some(found) = bytes[..near].iter().position(leads_out) {
            return Some(found);
        }
        let far = &bytes[near..];
        let found = match self.starts[..] {
            [a] => memchr::memchr(a, far),
            [a, b] => memchr::memchr2(a, b, far),
            [a, b, c] => memchr::memchr3(a, b, c, far),
            _ => far.iter().position(leads_out),
        };
        found.map(|found| near + found)
    }
}

/// The trie of sorted strings, breadth first. A node is a range of strings that
/// begin alike.
fn trie(strings: &[Vec<u8>]) -> (Vec<Node>, Vec<u8>) {
    let mut ranges = vec![(0, strings.len())];
    let mut nodes: Vec<Node> = Vec::new();
    let mut labels = vec![0];
    let mut depths = vec![0_usize];
    while nodes.len() < ranges.len() {
        let state = nodes.len();
        let ((mut first, end), depth) = (ranges[state], depths[state]);
        let length = u32::try_from(depth).expect("strings are short");
        // The string that ends here sorts before those that go on.
        let ends = depth > 0 && strings[first].len() == depth;
        first += usize::from(ends);
        let first_child = ranges.len();
        while first < end {
            let byte = strings[first][depth];
            let alike = strings[first..end].partition_point(|other| other[depth] == byte);
            ranges.push((first, first + alike));
            labels.push(byte);
            depths.push(depth + 1);
            first += alike;
        }
        let number = |length: usize| State::try_from(length).expect("bounded by the caller");
        nodes.push(Node {
            fallback: ROOT,
            first_child: number(first_child),
            children: u16::try_from(ranges.len() - first_child).expect("256 bytes at most"),
            depth: length,
            longest: if ends { length } else { 0 },
        });
    }
    (nodes, labels)
}

fn child(nodes: &[Node], labels: &[u8], state: State, byte: u8) -> Option<State> {
    let node = nodes[state as usize];
    let first = node.first_child as usize;
    let labels = &labels[first..first + usize::from(node.children)];
    let place = labels.iter().position(|label| *label == byte)?;
    Some(node.first_child + State::try_from(place).expect("256 at most"))
}

/// Fills in where each state goes on when no child fits, and what ends there.
fn fall_back(nodes: &mut [Node], labels: &[u8]) {
    for state in 0..nodes.len() {
        let node = nodes[state];
        for next in node.first_child..node.first_child + State::from(node.children) {
            let byte = labels[next as usize];
            let mut at = node.fallback;
            let mut fallback = ROOT;
            if node.depth > 0 {
                fallback = loop {
                    if let Some(found) = child(nodes, labels, at, byte) {
                        break found;
                    }
                    if at == ROOT {
                        break ROOT;
                    }
                    at = nodes[at as usize].fallback;
                };
            }
            let shorter = nodes[fallback as usize].longest;
            let next = &mut nodes[next as usize];
            next.fallback = fallback;
            next.longest = next.longest.max(shorter);
        }
    }
}

fn starts(nodes: &[Node], labels: &[u8]) -> Vec<u8> {
    let root = nodes[ROOT as usize];
    let first = root.first_child as usize;
    labels[first..first + usize::from(root.children)].to_vec()
}
