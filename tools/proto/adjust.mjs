// @ts-check
// What of the generated code is not as we need it.

/** What the generator writes into every message, as its lines without their indentation, and what is called in its place. */
const COMMON = /** @type {const} */ ([
  [
    `if (properties)
     for (let keys = $Object.keys(properties), i = 0; i < keys.length; ++i)
     if (properties[keys[i]] != null && keys[i] !== "__proto__")
     this[keys[i]] = properties[keys[i]];`,
    'if (properties) $shared.setFields(this, properties);',
  ],
  [
    `if (!writer)
     writer = $Writer.create();
     if (_depth === $undefined)
     _depth = 0;
     if (_depth > $util.recursionLimit)
     throw $Error("max depth exceeded");`,
    'writer = $shared.writerOf(writer); _depth = $shared.writtenDepth(_depth);',
  ],
  [
    `if (message.$unknowns != null && $Object.hasOwnProperty.call(message, "$unknowns"))
     for (let i = 0; i < message.$unknowns.length; ++i)
     writer.raw(message.$unknowns[i]);`,
    'if (message.$unknowns != null) $shared.writeUnknowns(message, writer);',
  ],
  [
    `if (!(reader instanceof $Reader))
     reader = $Reader.create(reader);
     if (_depth === $undefined)
     _depth = 0;
     if (_depth > $Reader.recursionLimit)
     throw $Error("max depth exceeded");`,
    'reader = $shared.readerOf(reader); _depth = $shared.readDepth(_depth);',
  ],
  [
    `if (length === $undefined)
     end = reader.len;
     else {
     end = reader.pos + length;
     if (end > reader.len)
     throw $RangeError("index out of range");
     length = reader.len;
     reader.len = end;
     }`,
    'const outer = reader.len; end = $shared.enter(reader, length);',
  ],
  [
    `if (length !== $undefined) {
     if (reader.pos !== end)
     throw $RangeError("index out of range");
     reader.len = length;
     }
     if (_end !== $undefined)
     throw $Error("missing end group");`,
    '$shared.leave(reader, length, end, outer, _end);',
  ],
  [
    `reader.skipType(WIRE_TYPE, _depth, tag);
     if (!reader.discardUnknown) {
     $util.makeProp(message, "$unknowns", false);
     (message.$unknowns || (message.$unknowns = [])).push(reader.raw(start, reader.pos));
     }`,
    '$shared.skipField(reader, message, $1, _depth, tag, start);',
  ],
])

/** What the fields of a message are when they are not there: a run of lines. */
const DEFAULTS = /(?:^ *\w+\.prototype\.\w+ = .*;\n(?: *\n)*)+/gm
const DEFAULT = /^ *(\w+)\.prototype\.(\w+) = (.*);$/gm

/** @param {string} run */
function defaults(run) {
  const lines = [...run.matchAll(DEFAULT)]
  return `$Object.assign(${lines[0]?.[1]}.prototype, {${lines.map(([, , field, value]) => `${field}: ${value}`).join(', ')}});\n`
}

/** What of a field's tag is its wire type: in a message that has fields, and in one that has none. */
const WIRE_TYPE = '(wireType|tag & 7)'

/** @param {string} lines */
function pattern(lines) {
  const literal = lines.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/\n\s*/g, '\\s+')
  return new RegExp(literal.replace('WIRE_TYPE', WIRE_TYPE), 'g')
}

/**
 * The code of one file: every message calls what they have in common, and 64-bit numbers are plain ones, exact up to 2^53.
 *
 * @param {string} code
 * @param {string} name of its .proto, without it
 */
export function adjustCode(code, name) {
  const messages = code.match(/\.decode = function/g)?.length ?? 0
  let adjusted = code.replace(/^ *\/\*\*[\s\S]*?\*\/\n/gm, '').replace(DEFAULTS, defaults)
  for (const [lines, call] of COMMON) {
    const count = adjusted.match(pattern(lines))?.length ?? 0
    if (count !== messages)
      throw new Error(
        `proto/${name}.proto: ${count} of ${messages} messages have "${lines.split('\n')[0]} …": the generator has changed, see tools/proto/adjust.mjs`,
      )
    adjusted = adjusted.replace(pattern(lines), call)
  }
  adjusted = adjusted
    // A root of its own for each file: the shared one would let two packages, or two copies of this one, overwrite
    // each other's messages.
    .replace(/const \$root = .*;/, 'const $root = {};')
    .replace(/^import \$protobuf .*$/m, "$&\nimport * as $shared from './shared.js';")
    .replaceAll('$root.fdbroker.', 'fdbroker.')
    .replaceAll('$util.Long ? $util.Long.fromBits(0,0,true) : 0', '0')
    .replace(/\(typeof (\S+) === "object" \? .* : (\1 !== 0)\)/g, '$2')
    .replace(/typeof (\(value = \S+\)) === "object" \? .* : value !== 0/g, '$1 !== 0')
    // What a type has for a field is its default, which is not written whosever it is.
    .replace(/\$Object\.hasOwnProperty\.call\(message, "\w+"\) && /g, '')
    .replaceAll('$Object.hasOwnProperty.call(', '$shared.has.call(')
    .replaceAll('$util.oneOfSetter(', '$shared.oneOfSetter(')
    .replaceAll('reader.uint64()', '$shared.uint64(reader)')
  const left = /reader\.(u?int64s?|sint64s?|s?fixed64s?)\(|\$util\.Long/.exec(adjusted)
  if (left)
    throw new Error(
      `proto/${name}.proto: "${left[0]}" — of the 64-bit types only single uint64 fields are supported`,
    )
  return adjusted
}

/**
 * Its types: fields may be given as undefined, which encode() takes for absent (matters under exactOptionalPropertyTypes).
 *
 * @param {string} types
 */
export function adjustTypes(types) {
  return types.replace(/^import Long = .*\n/m, '').replace(/\|null\);/g, '|null|undefined);')
}
