/**
 * Files of pre-shared keys: lines "name:key in hexadecimal", as psktool writes them; empty ones and those that begin with "#" say nothing.
 *
 * Invariant: keys are in no message.
 */

/** Shorter keys can be guessed. */
const MIN_KEY_BYTES = 16;
/** OpenSSL takes no longer ones. */
const MAX_KEY_BYTES = 64;
const MAX_NAME_BYTES = 128;

/** The keys in lower-case hexadecimal, by name; `wrong` is told of each line that is none, by its number. */
export function parsePskFile(text: string, wrong: (line: number, problem: string) => void): Record<string, string> {
  const keys: Record<string, string> = Object.create(null);
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const colon = line.lastIndexOf(':');
    const name = line.slice(0, colon);
    const key = line.slice(colon + 1).trim();
    const problem = colon < 1 ? 'no "name:key"' : problemOf(name, key, keys);
    if (problem === null) keys[name] = key.toLowerCase();
    else wrong(index + 1, problem);
  }
  return { ...keys };
}

function problemOf(name: string, key: string, known: Readonly<Record<string, string>>): string | null {
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) return `a name of more than ${MAX_NAME_BYTES} bytes`;
  if (known[name] !== undefined) return `a second key for ${name}`;
  if (!/^([0-9A-Fa-f]{2})+$/.test(key)) return `the key of ${name} is not in hexadecimal`;
  const bytes = key.length / 2;
  if (bytes >= MIN_KEY_BYTES && bytes <= MAX_KEY_BYTES) return null;
  return `the key of ${name} has ${bytes} bytes, ${MIN_KEY_BYTES} to ${MAX_KEY_BYTES} are possible`;
}
