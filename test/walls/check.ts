import { posix } from 'node:path'
import { circles } from './circles.js'
import { type Import, importsOf, lineAt, type Sources } from './imports.js'
import { CONFINED, type Folder, MOST_LINES, ROOMS, type Room } from './rules.js'
import { codeOf } from './source-text.js'

/** Lists the broken rules, one sentence each; empty: the walls hold. */
export function violations(sources: Sources): string[] {
  const imports = [...sources].flatMap(([path, source]) => importsOf(path, source))
  return [
    ...[...sources.keys()].flatMap(homeless),
    ...imports.flatMap(upward),
    ...imports.flatMap(pastTheDoor),
    ...imports.flatMap(pastFolderWall),
    ...[...sources.keys()].flatMap(folderless),
    ...imports.flatMap(foreignPackage),
    ...inCircles(imports),
    ...[...sources].flatMap(([path, source]) => unconfined(path, codeOf(source))),
    ...[...sources].flatMap(([path, source]) => tooLong(path, source)),
  ]
}

function roomOf(path: string): Room | undefined {
  return ROOMS.find(({ name, places = [name] }) => places.some(place => isIn(path, place)))
}

function isIn(path: string, place: string): boolean {
  return path === `src/${place}` || path.startsWith(`src/${place}/`)
}

function homeless(path: string): string[] {
  return roomOf(path) ? [] : [`${path} is in no room: name it in test/walls/rules.ts and CONTRIBUTING.md`]
}

function upward({ from, to, line }: Import): string[] {
  const here = roomOf(from)
  const there = roomOf(to)
  if (!here || !there || here === there) return []
  if (ROOMS.indexOf(there) > ROOMS.indexOf(here)) return [`${from}:${line} imports upward: ${to}`]
  if (here.only && !here.only.includes(there.name)) {
    return [
      `${from}:${line} imports ${to}: ${here.name} may import only ${here.only.join(', ') || 'nothing'}`,
    ]
  }
  return []
}

function pastTheDoor({ from, to, line }: Import): string[] {
  const there = roomOf(to)
  if (!there?.door || there === roomOf(from) || to === `src/${there.name}/${there.door}`) return []
  return [`${from}:${line} imports ${to} past ${there.name}/${there.door}`]
}

function folderless(path: string): string[] {
  const room = roomOf(path)
  if (room?.folders === undefined || folderIn(room, path) !== undefined) return []
  return [`${path} is in no folder of ${room.name}: name it in test/walls/rules.ts and CONTRIBUTING.md`]
}

function folderIn(room: Room, path: string): Folder | undefined {
  const folder = posix.relative(`src/${room.name}`, posix.dirname(path)) || '.'
  return room.folders?.find(({ name }) => name === folder)
}

function pastFolderWall({ from, to, line }: Import): string[] {
  const room = roomOf(to)
  const there = room && folderIn(room, to)
  const here = room && roomOf(from) === room ? folderIn(room, from) : undefined
  if (room?.folders === undefined || there === undefined || here === there) return []
  if (here !== undefined && room.folders.indexOf(there) > room.folders.indexOf(here)) {
    return [`${from}:${line} imports upward: ${to}`]
  }
  if (there.open.includes(posix.basename(to))) return []
  return [`${from}:${line} imports ${to}, which ${room.name}/${there.name} does not open`]
}

function foreignPackage({ from, to, line }: Import): string[] {
  if (to.startsWith('src/') || to.startsWith('node:')) return []
  const [first, second] = to.split('/')
  const name = to.startsWith('@') ? `${first}/${second}` : first!
  return roomOf(from)?.packages?.includes(name) ? [] : [`${from}:${line} uses the package ${name}`]
}

function inCircles(imports: readonly Import[]): string[] {
  const ours = imports.filter(({ to }) => to.startsWith('src/'))
  const files = circles(arrows(ours, path => path))
  const folders = circles(arrows(ours, folderOf))
  return [
    ...files.map(group => `files in a circle: ${group.join(', ')}`),
    ...folders.map(group => `folders in a circle: ${group.join(', ')}`),
  ]
}

/** A file right below `src` stands for itself. */
function folderOf(path: string): string {
  const folder = posix.dirname(path)
  return folder === 'src' ? path : folder
}

function arrows(imports: readonly Import[], nodeOf: (path: string) => string): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>()
  for (const { from, to } of imports) {
    const node = nodeOf(from)
    const targets = found.get(node) ?? new Set()
    if (node !== nodeOf(to)) targets.add(nodeOf(to))
    found.set(node, targets)
  }
  return found
}

function unconfined(path: string, code: string): string[] {
  return CONFINED.filter(({ to }) => !to.some(place => isIn(path, place))).flatMap(({ what, pattern, to }) =>
    [...code.matchAll(new RegExp(pattern, 'g'))].map(
      ({ index, 0: text }) =>
        `${path}:${lineAt(code, index)} says ${text.trim()}: ${what} belongs to src/${to.join(', src/')}`,
    ),
  )
}

function tooLong(path: string, source: string): string[] {
  const lines = source.split('\n').length - 1
  if (lines <= MOST_LINES) return []
  return [`${path} has ${lines} lines; a file has at most ${MOST_LINES}`]
}
