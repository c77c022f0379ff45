/**
 * The regular expressions of filters (lvm.conf) and of =~ and !~ in selections, which are device-mapper's: . * + ? | ( ) [ ] ^ $
 * and \ before any
 * character. They have no braces, back references or classes, so those stand for themselves here.
 *
 * Invariant: a pattern is matched anywhere in the text unless ^ or $ bind it.
 *
 * Source: lvm.conf(5) on filters, and comparison with lvs 2.03.16.
 */

const CONTROL: Readonly<Record<string, string>> = { n: '\\n', r: '\\r', t: '\\t' };

function literal(char: string): string {
  return /[\^$\\.*+?()[\]{}|/-]/.test(char) ? `\\${char}` : char;
}

/** A bracket expression from `at` (just after its "["): its translation and where it ends, null if it never does. */
function bracket(pattern: string, at: number): { readonly text: string; readonly end: number } | null {
  let i = at;
  const negated = pattern[i] === '^';
  if (negated) i++;
  let body = '';
  for (let first = true; i < pattern.length; first = false) {
    const char = pattern[i] ?? '';
    if (char === ']' && !first) return { text: `[${negated ? '^' : ''}${body}]`, end: i + 1 };
    if (char === '\\' && i + 1 < pattern.length) {
      const next = pattern[i + 1] ?? '';
      body += CONTROL[next] ?? literal(next);
      i += 2;
      continue;
    }
    const range = char === '-' && !first && pattern[i + 1] !== ']';
    body += range ? '-' : literal(char);
    i++;
  }
  return null;
}

/** Null if the pattern is not well formed. */
export function compileRegex(pattern: string): RegExp | null {
  let text = '';
  for (let i = 0; i < pattern.length;) {
    const char = pattern[i] ?? '';
    if (char === '[') {
      const part = bracket(pattern, i + 1);
      if (part === null) return null;
      text += part.text;
      i = part.end;
    } else if (char === '\\') {
      const next = pattern[i + 1];
      if (next === undefined) return null;
      text += CONTROL[next] ?? literal(next);
      i += 2;
    } else {
      text += /[{}/\]]/.test(char) ? literal(char) : char;
      i++;
    }
  }
  try {
    // Flag s: a dot matches every character. No flag u: "\-" is then a plain hyphen.
    return new RegExp(text, 's');
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
