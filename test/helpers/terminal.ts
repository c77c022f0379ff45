/** A terminal at which nobody sits: every question ends in its default. What is asked goes nowhere. */
import type { Terminal } from '../../src/cli/prompt.ts';

export const NOBODY: Terminal = { readLine: () => null, write: () => undefined };
