/**
 * What `-o help` and `-S help` print, and what precedes an "Unrecognised field": the fields by section, and the grammar of
 * selections. All of it goes to stderr, as LVM2 does.
 *
 * Source: `lvs -o help` and `lvs -S help` of 2.03.16.
 */
import type { Output } from '../messages.ts';
import { type AnyField, SPECIAL_FIELDS } from './columns.ts';
import { type ReportField, SECTIONS } from './field.ts';

export interface ListingStyle {
  /** With "<prefix>all" heading each section. */
  readonly allItems: boolean;
  /** With each field's type in brackets. */
  readonly types: boolean;
}

function typeName(field: AnyField): string {
  const name = field.type === 'binary' ? 'number' : field.type === 'string-list' ? 'string list' : field.type;
  return field.section === 'special' && field.id !== 'selected' ? `unselectable ${name}` : name;
}

/** Prints every field, by sections, and a line with a space after them. */
export function listFields(fields: readonly ReportField[], style: ListingStyle, output: Output): void {
  const width = Math.max(...fields.map((field) => field.id.length));
  const line = (field: AnyField): void => {
    output.error(`  ${field.id.padEnd(width)} - ${field.description}${style.types ? ` [${typeName(field)}]` : ''}`);
  };
  const title = (text: string): void => {
    output.error(text);
    output.error('-'.repeat(text.length));
  };
  for (const section of SECTIONS) {
    if (!fields.some((field) => field.section === section.id)) continue;
    title(`${section.title} Fields`);
    if (style.allItems) output.error(`  ${`${section.prefix}all`.padEnd(width)} - All fields in this section.`);
    for (const field of fields) if (field.section === section.id) line(field);
    output.error(' ');
  }
  title('Special Fields');
  for (const field of SPECIAL_FIELDS) line(field);
  output.error(' ');
}

const OPERANDS = [
  'Selection operands',
  '------------------',
  '  field               - Reporting field.',
  '  number              - Non-negative integer value.',
  "  size                - Floating point value with units, 'm' unit used by default if not specified.",
  '  percent             - Non-negative integer with or without % suffix.',
  '  string              - Characters quoted by \' or " or unquoted.',
  '  string list         - Strings enclosed by [ ] or { } and elements delimited by either',
  '                        "all items must match" or "at least one item must match" operator.',
  '  regular expression  - Characters quoted by \' or " or unquoted.',
  ' ',
];

const OPERATORS = [
  'Selection operators',
  '-------------------',
  '  Comparison operators:',
  '        =~  - Matching regular expression. [regex]',
  '        !~  - Not matching regular expression. [regex]',
  '         =  - Equal to. [number, size, percent, string, string list, time]',
  '        !=  - Not equal to. [number, size, percent, string, string_list, time]',
  '        >=  - Greater than or equal to. [number, size, percent, time]',
  '         >  - Greater than. [number, size, percent, time]',
  '        <=  - Less than or equal to. [number, size, percent, time]',
  '         <  - Less than. [number, size, percent, time]',
  "     since  - Since specified time (same as '>='). [time]",
  "     after  - After specified time (same as '>'). [time]",
  "     until  - Until specified time (same as '<='). [time]",
  "    before  - Before specified time (same as '<'). [time]",
  ' ',
  '  Logical and grouping operators:',
  '      &&  - All fields must match',
  '       ,  - All fields must match',
  '      ||  - At least one field must match',
  '       #  - At least one field must match',
  '       !  - Logical negation',
  '       (  - Left parenthesis',
  '       )  - Right parenthesis',
  '       [  - List start',
  '       ]  - List end',
  '       {  - List subset start',
  '       }  - List subset end',
  ' ',
];

/** Names that stand for values, and the field that knows them. */
function reservedLines(fields: readonly ReportField[]): string[] {
  // LVM2 tells even of the common one only where a field has its own.
  if (fields.every((field) => field.words === undefined && field.reserved === undefined)) return [];
  const entries = [
    { names: '-1, unknown, undefined, undef', about: 'Reserved value for undefined numeric value. [number]' },
  ];
  for (const field of fields) {
    const about = `Value of ${field.id}. [${typeName(field)}]`;
    for (const word of field.words === undefined ? [] : ['yes', 'no']) {
      entries.push({ names: [...(field.words ?? []), word].join(', '), about });
    }
    for (const { names } of field.reserved ?? []) entries.push({ names: names.join(', '), about });
  }
  const width = Math.max(...entries.map(({ names }) => names.length));
  const lines = entries.map(({ names, about }) => `  ${names.padEnd(width)} - ${about}`);
  return ['Reserved values', '---------------', ...lines, ' '];
}

/** Prints how selection criteria are written. */
export function explainSelection(fields: readonly ReportField[], output: Output): void {
  for (const line of [...OPERANDS, ...reservedLines(fields), ...OPERATORS]) output.error(line);
}
