import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { castsIn, importedBy } from '../../walls/casts.js'
import { violations } from '../../walls/check.js'
import { circles } from '../../walls/circles.js'
import { importsOf, sourcesBelow } from '../../walls/imports.js'
import { nativeArrows } from '../../walls/native.js'
import { crowdedParts } from '../../walls/parts.js'
import { HARD_PLACES, HARD_WORDS, PARTS, ROOMS, ROOT_ENTRIES, UNIT_TESTS } from '../../walls/rules.js'
import { hardTitles } from '../../walls/titles.js'
import { commentLines, hardPlaces, hardWords, proseLines, retiredNames } from '../../walls/words.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))

/** The violations in made-up sources. */
function found(sources: Record<string, string>): string[] {
  return violations(new Map(Object.entries(sources)))
}

/**
 * How often sources examine files in this way: regular files and folders only. `realpathSync()` of Node, by which it finds modules, stops at the first folder if the file that
 * was examined last without `bigint` was a socket or a pipe.
 */
const FILES_ONLY = new Map([
  ['src/auto/log-files.ts', 1],
  ['src/base/cache-file.ts', 4],
  ['src/code-cache/code-cache.ts', 1],
  ['src/code-cache/load-cached.ts', 1],
  ['src/kernel/file.ts', 1],
  ['src/os/connect.ts', 1],
  ['src/os/control-path.ts', 3],
  ['src/os/default-control.ts', 1],
  ['src/os/limits.ts', 1],
  ['src/os/other-process.ts', 2],
  ['src/os/restore-control.ts', 2],
  ['src/probing/temporary-folder.ts', 1],
  ['src/proxy/config/kept-config.ts', 1],
  ['src/state/file/claim.ts', 1],
  ['src/versions/exit-reason.ts', 1],
])

describe('the sources', () => {
  const all = sourcesBelow(root, 'src')

  it('break no rule', () => {
    expect(all.size).toBeGreaterThan(250)
    expect(violations(all)).toEqual([])
  })

  it('do not examine sockets and pipes in the way that breaks the search for modules', () => {
    const found = [...all].flatMap(([path, text]) => {
      const calls = [...text.matchAll(/\b[lf]?statSync\((?!.*bigint: true)/g)].length
      return path.startsWith('src/cli/') || calls === 0 ? [] : [[path, calls] as const]
    })
    expect(new Map(found)).toEqual(FILES_ONLY)
  })

  it('fill every room', () => {
    const paths = [...all.keys()]
    const empty = ROOMS.flatMap(({ name, places = [name] }) => places).filter(
      place => !paths.some(path => path === `src/${place}` || path.startsWith(`src/${place}/`)),
    )
    expect(empty).toEqual([])
  })

  it('stand in CONTRIBUTING.md as they are checked', () => {
    const text = readFileSync(`${root}/.github/CONTRIBUTING.md`, 'utf8')
    const rows = text.split('\n').filter(line => /^\| `src\//.test(line))
    expect(rows).toEqual(
      ROOMS.map(({ name, places = [name], about, only }) => {
        const where = places.map(place => `\`src/${place}\``).join(', ')
        const from =
          only === undefined ? 'all above' : only.map(each => `\`${each}\``).join(', ') || 'nothing'
        return `| ${where} | ${about} | ${from} |`
      }),
    )
  })
})

describe('the parts of a room', () => {
  it('get no more values than the walls say', () => {
    const sources = PARTS.rooms.flatMap(room => [...sourcesBelow(root, `src/${room}`)])
    expect(sources.length).toBeGreaterThan(80)
    expect(crowdedParts(new Map(sources), PARTS.most).toSorted()).toEqual([...PARTS.more])
  })

  it('count by their interfaces and parameters', () => {
    const source = `/** a: b, */
interface ADeps {
  readonly a: { b: 1; c: 2 }
  d?(): void
  e<T>(x: T): T
}
interface Parts {
  a: 1
  b: 2
  c: 3
}
interface Other {
  a: 1
  b: 2
  c: 3
}
class A {
  constructor(parts: Parts, f: (a: 1, b: 2) => void = () => {}) {
  }
}
class B {
  private constructor(a: Map<1, 2>, b: 1, c: 3) {}
}
`
    expect(crowdedParts(new Map([['a.ts', source]]), 2)).toEqual([
      'a.ts ADeps: 3',
      'a.ts Parts: 3',
      'a.ts constructor: 3',
    ])
  })
})

describe('the folders of a room', () => {
  const rooms = ROOMS.flatMap(({ name, folders = [] }) => (folders.length > 0 ? [{ name, folders }] : []))

  it('open only files that others import', () => {
    const imports = [...sourcesBelow(root, 'src')].flatMap(([path, source]) => importsOf(path, source))
    const outside = new Set(
      imports.flatMap(({ from, to }) => (posix.dirname(from) === posix.dirname(to) ? [] : [to])),
    )
    const needless = rooms.flatMap(({ name, folders }) =>
      folders.flatMap(folder =>
        folder.open
          .map(file => posix.join('src', name, folder.name, file))
          .filter(path => !outside.has(path)),
      ),
    )
    expect(needless).toEqual([])
  })

  it('stand in CONTRIBUTING.md as they are checked', () => {
    const text = readFileSync(`${root}/.github/CONTRIBUTING.md`, 'utf8')
    const rows = text.split('\n').filter(line => /^\| `member\b/.test(line))
    expect(rows).toEqual(
      rooms.flatMap(({ name, folders }) =>
        folders.map(folder => `| \`${posix.join(name, folder.name)}\` | ${folder.about} |`),
      ),
    )
  })
})

describe('the addon', () => {
  const names = readdirSync(`${root}/native`).filter(name => name.endsWith('.c'))
  const texts = new Map(names.map(name => [name, readFileSync(`${root}/native/${name}`, 'utf8')]))

  it('has no circle of files', () => {
    expect(nativeArrows(texts).get('addon.c')!.size).toBeGreaterThan(15)
    expect(circles(nativeArrows(texts))).toEqual([])
  })

  it('has a circle if two files call each other', () => {
    const made = new Map([
      ['a.c', 'int fdb_a(void) {\n  return fdb_b();\n}\n'],
      ['b.c', 'int fdb_b(void) {\n  return fdb_a(); /* fdb_c() */\n}\n'],
      ['c.c', 'int fdb_c(void) {\n  return fdb_a();\n}\n'],
    ])
    expect(circles(nativeArrows(made))).toEqual([['a.c', 'b.c']])
  })
})

describe('the words', () => {
  it('of the sources and pages are no harder than the walls say', () => {
    const names = readdirSync(`${root}/docs`, { recursive: true, encoding: 'utf8' })
    const pages = [
      'README.md',
      'CHANGELOG.md',
      '.github/CONTRIBUTING.md',
      '.github/SECURITY.md',
      ...names.map(name => `docs/${name}`),
    ]
    const found = hardWords(
      [...sourcesBelow(root, 'src').values()],
      pages.filter(name => name.endsWith('.md')).map(name => readFileSync(`${root}/${name}`, 'utf8')),
    )
    for (const kind of ['comments', 'pronouns', 'pages', 'names'] as const) {
      expect(found[kind], kind).toBeLessThanOrEqual(HARD_WORDS[kind])
    }
  })

  it.each(Object.entries(HARD_PLACES))('of %s are no harder than the walls say', (folder, ceilings) => {
    const { stdout } = spawnSync('git', ['ls-files', folder], { cwd: root, encoding: 'utf8' })
    const paths = stdout
      .split('\n')
      .filter(path => /\.(?:[cm]?[jt]s|c|h|go|py|sh)$/.test(path) && existsSync(`${root}/${path}`))
    const found = hardPlaces(new Map(paths.map(path => [path, readFileSync(`${root}/${path}`, 'utf8')])))
    for (const kind of ['comments', 'pronouns', 'names', 'titles'] as const) {
      expect(found[kind].length, `${kind}:\n${found[kind].join('\n')}`).toBeLessThanOrEqual(ceilings[kind])
    }
  })

  it('of Python, Go and shells count in comments and docstrings', () => {
    const files = new Map([
      [
        'a.py',
        '#!/usr/bin/python\n"""What it does.\n\nIt ends.\n"""\n# Nobody reads.\ndesk = "crew"  # guest',
      ],
      ['a.go', '// Whoever asks.\nvar shelf = "It"\n'],
      ['a.sh', '#!/bin/sh\n# It ends.\necho "# Who serves"\n'],
      ['a.test.ts', "it.each([1])('is %i', () => {})\n"],
    ])
    expect(hardPlaces(files)).toEqual({
      comments: ['a.py:2: What it does.', 'a.py:6: Nobody reads.', 'a.go:1: Whoever asks.'],
      pronouns: ['a.py:4: It ends.', 'a.sh:2: It ends.'],
      names: ['a.py: desk', 'a.go: shelf'],
      titles: ['a.test.ts:1: is %i'],
    })
  })

  it('of a title count where it hides its actor', () => {
    const source = `describe.each\`a\`('that %s', () => {
  it('refuses what is no number', () => {})
  it.each([f('is')])(
    "isn't counted",
  )
  it.each<[what: () => void]>([['are']])(\`whose\`, () => {})
})
const it = 'is'
`
    expect(hardTitles(source).map(({ line, text }) => [line, text])).toEqual([
      [1, 'that %s'],
      [6, 'whose'],
    ])
  })

  it.each([
    ['/** Who waits for it. */', 1],
    ['const a = 1 // Nobody serves.', 0],
    ['  // A limit. Of it, a part.', 1],
    ['/**\n * The client. What it\n * sends to whoever asks.\n */', 2],
    ['/** The offer of a holder. */', 0],
  ])('of the comment %j are counted', (source, count) => {
    expect(hardWords([source], [])).toMatchObject({ comments: count, pages: 0, names: 0 })
  })

  it('count a comment that begins with a pronoun', () => {
    const source = '/** A limit. It ends. */\n// Null: none.\n/** The client and its limit. */\n'
    expect(hardWords([source], []).pronouns).toBe(2)
  })

  it('of a page are counted without its code', () => {
    const page = '# Who serves\n\n```sh\nWhat is this\n```\n- Nobody waits.\nA client waits.\n'
    expect(hardWords([], [page])).toMatchObject({ comments: 0, pages: 2, names: 0 })
    expect(proseLines('1. Of it')).toEqual(['Of it'])
    expect(commentLines(' * a\n*/\n// b')).toEqual(['a', 'b'])
  })

  it('of names are those of code, as parts of a name too', () => {
    const source = "const frontDesk = 'duty' // custody\nfrontDesk.custodyOf(deskTop, shelf_of, crewed)"
    expect(retiredNames(source)).toEqual(['frontDesk', 'frontDesk', 'custodyOf', 'deskTop', 'shelf_of'])
  })
})

describe('the root folder', () => {
  it('has no more entries than the walls say', () => {
    const files = spawnSync('git', ['ls-files'], { cwd: root, encoding: 'utf8' }).stdout.split('\n')
    const entries = new Set(files.filter(file => file !== '').map(file => file.split('/')[0]))
    expect(entries.size, [...entries].join(' ')).toBeLessThanOrEqual(ROOT_ENTRIES)
  })
})

describe('the unit tests', () => {
  const all = sourcesBelow(root, 'test/unit')

  it('stand in folders of the names of rooms', () => {
    const rooms = new Set(
      ROOMS.flatMap(({ name, places = [name] }) => places.map(place => place.split('/')[0]!)),
    )
    const other = readdirSync(`${root}/test/unit`).filter(
      folder => !rooms.has(folder) && folder !== 'project',
    )
    expect(other).toEqual([])
  })

  it('import no more files of src, and have no more casts, than the walls say', () => {
    expect(importedBy(all).size).toBeLessThanOrEqual(UNIT_TESTS.imported)
    expect(castsIn(all)).toBeLessThanOrEqual(UNIT_TESTS.casts)
  })

  it('count by their code', () => {
    const made = new Map([
      [
        'test/unit/a/b.test.ts',
        "import { a } from '../../../src/a/b.js'\nit('as never', () => a({} as never, 1 as unknown as A)) // as never",
      ],
    ])
    expect([castsIn(made), [...importedBy(made)]]).toEqual([2, ['src/a/b.ts']])
  })
})

describe('a planted violation is found:', () => {
  it.each<[what: string, sources: Record<string, string>, sentence: string]>([
    [
      'an import of a room below',
      { 'src/os/a.ts': "import { join } from '../member/joining/join.js'" },
      'src/os/a.ts:1 imports upward: src/member/joining/join.ts',
    ],
    [
      'an import of a type of a room below',
      { 'src/handoff/a.ts': "// Why.\nimport type { Member } from '../member/member.js'" },
      'src/handoff/a.ts:2 imports upward: src/member/member.ts',
    ],
    [
      'a type that is imported where it is used',
      { 'src/state/a.ts': "export type A = import('../member/member.js').Member" },
      'src/state/a.ts:1 imports upward: src/member/member.ts',
    ],
    [
      'an import that waits until it is needed',
      { 'src/holder/a.ts': "const { join } = await import('../member/joining/join.js')" },
      'src/holder/a.ts:1 imports upward: src/member/joining/join.ts',
    ],
    [
      'an import of a folder below, in one room',
      { 'src/member/options/a.ts': "import { join } from '../joining/join.js'" },
      'src/member/options/a.ts:1 imports upward: src/member/joining/join.ts',
    ],
    [
      'an import past the wall of a folder',
      { 'src/member/drain/a.ts': "import { SegmentLoader } from '../state/segment-loader.js'" },
      'src/member/drain/a.ts:1 imports src/member/state/segment-loader.ts, which member/state does not open',
    ],
    [
      'an import past the wall of a folder, from another room',
      { 'src/daemon/a.ts': "import { Moves } from '../member/drain/places.js'" },
      'src/daemon/a.ts:1 imports src/member/drain/places.ts, which member/drain does not open',
    ],
    [
      'a folder that the room does not name',
      { 'src/member/misc/a.ts': 'a()' },
      'src/member/misc/a.ts is in no folder of member: name it in test/walls/rules.ts and CONTRIBUTING.md',
    ],
    [
      'what is exported again',
      { 'src/wire/a.ts': "export {\n  type Holder,\n} from '../holder/holder.js'" },
      'src/wire/a.ts:1 imports upward: src/holder/holder.ts',
    ],
    [
      'a worker that is started',
      { 'src/state/a.ts': "new Worker(new URL('../proxy/worker.js', import.meta.url))" },
      'src/state/a.ts:1 imports upward: src/proxy/worker.ts',
    ],
    [
      'an import of a room above that is not for this one',
      { 'src/http1/a.ts': "import { inspect } from '../kernel/index.js'" },
      'src/http1/a.ts:1 imports src/kernel/index.ts: http1 may import only errors',
    ],
    [
      'an import past a door',
      { 'src/state/a.ts': "import { OwnedFd } from '../kernel/owned.js'" },
      'src/state/a.ts:1 imports src/kernel/owned.ts past kernel/index.ts',
    ],
    [
      'a package that belongs to another room',
      { 'src/member/a.ts': "import { parse } from 'yaml/util'" },
      'src/member/a.ts:1 uses the package yaml',
    ],
    [
      'a package by require',
      { 'src/member/a.ts': "const { Packr } = createRequire(import.meta.url)('x'), b = require('@a/b/c')" },
      'src/member/a.ts:1 uses the package @a/b',
    ],
    [
      'a circle of files',
      {
        'src/state/a.ts': "import { b } from './b.js'",
        'src/state/b.ts': "import { c } from './c.js'",
        'src/state/c.ts': "import { a } from './a.js'",
      },
      'files in a circle: src/state/a.ts, src/state/b.ts, src/state/c.ts',
    ],
    [
      'a circle of types alone',
      {
        'src/state/a.ts': "import type { B } from './b.js'",
        'src/state/b.ts': "import { type A } from './a.js'",
      },
      'files in a circle: src/state/a.ts, src/state/b.ts',
    ],
    [
      'a circle of folders without one of files',
      {
        'src/proxy/x/a.ts': "import { b } from '../y/b.js'",
        'src/proxy/y/c.ts': "import { d } from '../x/d.js'",
      },
      'folders in a circle: src/proxy/x, src/proxy/y',
    ],
    [
      'a folder in a circle with what lies in it',
      {
        'src/state/a.ts': "import { b } from './file/b.js'",
        'src/state/file/c.ts': "import { d } from '../d.js'",
      },
      'folders in a circle: src/state, src/state/file',
    ],
    [
      'a folder that is no room',
      { 'src/utils/a.ts': '' },
      'src/utils/a.ts is in no room: name it in test/walls/rules.ts and CONTRIBUTING.md',
    ],
    [
      'the addon',
      { 'src/holder/a.ts': 'native.memfd(name)' },
      'src/holder/a.ts:1 says native: the addon belongs to src/kernel',
    ],
    [
      'a raw descriptor number',
      { 'src/state/a.ts': '/* A comment\n with .raw in it */\nfstatSync(fd.raw)' },
      'src/state/a.ts:3 says .raw: a raw descriptor number belongs to src/kernel, src/code-cache/code-cache.ts',
    ],
    [
      'a descriptor that was opened without an owner',
      { 'src/cli/a.ts': "const fd = openSync(path, 'r')" },
      'src/cli/a.ts:1 says openSync: a raw descriptor number belongs to src/kernel, src/code-cache/code-cache.ts',
    ],
    [
      'a number that is given to Node',
      { 'src/member/a.ts': 'server.listen({ fd: fd.release() })' },
      'src/member/a.ts:1 says fd.release(: a raw descriptor number belongs to src/kernel, src/code-cache/code-cache.ts',
    ],
    [
      'the number of a file that Node opened',
      { 'src/state/a.ts': 'fsyncSync(this.#handle.fd)' },
      'src/state/a.ts:1 says handle.fd: a raw descriptor number belongs to src/kernel, src/code-cache/code-cache.ts',
    ],
    [
      'a number as an argument',
      { 'src/relay/a.ts': 'function look(fd: number): void {}' },
      'src/relay/a.ts:1 says fd: number: a raw descriptor number belongs to src/kernel, src/code-cache/code-cache.ts',
    ],
    ...(
      [
        ['socket._handle.fd', '._handle'],
        ["socket['_handle']", "['_handle"],
        ['const { _parent } = socket', '{ _parent }'],
        ['interface A { _connections: number }', '{ _connections:'],
        ['type A = { _httpMessage?: unknown }', '_httpMessage?:'],
        ['socket.parser', '.parser'],
        ["process.binding('tcp_wrap')", 'process.binding'],
        ['handle.writeQueueSize', 'writeQueueSize'],
        ['parser.onIncoming = null', 'onIncoming'],
      ] as const
    ).map(([code, said]): [string, Record<string, string>, string] => [
      `the inside of Node: ${code}`,
      { 'src/relay/a.ts': code },
      `src/relay/a.ts:1 says ${said}: the inside of one of Node's own objects belongs to src/node, src/ws/internals.ts, src/socket-io/internals.ts`,
    ]),
    ...(
      [
        ['Object.getOwnPropertySymbols(server)', 'getOwnPropertySymbols'],
        ['Reflect.ownKeys(server)', 'Reflect.ownKeys'],
      ] as const
    ).map(([code, said]): [string, Record<string, string>, string] => [
      `the inside of Node: ${code}`,
      { 'src/relay/a.ts': code },
      `src/relay/a.ts:1 says ${said}: a list of hidden fields belongs to src/node, src/ws/internals.ts, src/socket-io/internals.ts, src/state/codec.ts`,
    ]),
    [
      'a file that is too long',
      { 'src/member/a.ts': 'x()\n'.repeat(601) },
      'src/member/a.ts has 601 lines; a file has at most 600',
    ],
  ])('%s', (_what, sources, sentence) => {
    expect(found(sources)).toEqual([sentence])
  })
})

describe('no violation is', () => {
  it.each<[what: string, path: string, source: string]>([
    ['a comment', 'src/relay/a.ts', '// socket._handle.fd\n/** {@link OwnedFd.own} and fd.raw */'],
    ['a text', 'src/relay/a.ts', "say('the fd: number of openSync is no secret, nor socket._handle')"],
    [
      'a text in which code stands',
      'src/relay/a.ts',
      'say(`import \x24{a} from \x24{`b \x24{c}`} and .raw`)',
    ],
    ['an argument that is not used', 'src/relay/a.ts', 'on((_request, _events: number) => answer())'],
    ['a division', 'src/relay/a.ts', 'const half = (a + b) / 2 // openSync / closeSync'],
    ['a regular expression', 'src/relay/a.ts', String.raw`const quoted = /['"\`]/.test(text)`],
    ['what stands in its own room', 'src/kernel/a.ts', 'native.close(fd.raw)'],
    ['the inside of Node in its room', 'src/node/a.ts', 'socket._handle.readStop()'],
    ['an import of a room above', 'src/member/a.ts', "import { inspect } from '../kernel/index.js'"],
    ['a package of this room', 'src/cli/a.ts', "import { Command } from 'commander'"],
  ])('%s', (_what, path, source) => {
    expect(found({ [path]: source })).toEqual([])
  })
})

describe('imports', () => {
  it('read in all their forms, with their lines', () => {
    const source = `
import a from './a.js'
import './b.js'
import * as c from "./c.js"
import d, { type D } from './d.js' // import e from './e.js'
export * from './f.js'
export const text = 'import g from "./g.js"', h = await import('./h.js')
this.#import('i', all, 'j')
type K = typeof import('./k.js')
`
    expect(importsOf('src/x/y.ts', source).map(({ to, line }) => `${to}:${line}`)).toEqual([
      'src/x/a.ts:2',
      'src/x/b.ts:3',
      'src/x/c.ts:4',
      'src/x/d.ts:5',
      'src/x/f.ts:6',
      'src/x/h.ts:7',
      'src/x/k.ts:9',
    ])
  })
})
