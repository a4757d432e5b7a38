import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { ROOMS } from '../../walls/rules.js'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const texts = [
  'README.md',
  '.github/CONTRIBUTING.md',
  '.github/SECURITY.md',
  ...readdirSync(`${root}/docs`, { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.md'))
    .map(name => `docs/${name}`),
]

function read(name: string): string {
  return readFileSync(`${root}/${name}`, 'utf8')
}

/** `src/kernel`, `docs/errors.md`, `test/e2e/skew-*`. */
function filesNamed(text: string): string[] {
  const pattern = /`((?:bench|docs|examples|native|proto|src|test|tools)\/[A-Za-z0-9_./*-]+)`/g
  return [...text.matchAll(pattern)].map(([, path]) => path!)
}

/** `#what-it-is-for`, of each heading. */
function anchors(text: string): string[] {
  const headings = text.replace(/^```.*?^```$/gms, '').matchAll(/^#+ (.*)$/gm)
  return [...headings].map(([, heading]) =>
    heading!
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}_ -]/gu, '')
      .replaceAll(' ', '-'),
  )
}

function exists(path: string): boolean {
  const [folder = '', begin] = path.split('*')
  if (begin === undefined) return existsSync(`${root}/${path}`)
  const [, place = '', name = ''] = /^(.*)\/([^/]*)$/.exec(folder) ?? []
  return readdirSync(`${root}/${place}`).some(entry => entry.startsWith(name))
}

describe('the documents', () => {
  it.each(texts)('%s names files that are there', name => {
    expect(filesNamed(read(name)).filter(path => !exists(path))).toEqual([])
  })

  it.each(texts)('%s links to pages that are there', name => {
    const links = [...read(name).matchAll(/\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)/g)].map(([, link]) => link!)
    const folder = posix.dirname(name)
    expect(links.filter(link => !existsSync(`${root}/${folder}/${link}`))).toEqual([])
  })

  it.each(texts)('%s links to headings that are there', name => {
    const links = [...read(name).matchAll(/\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)/g)]
    const wrong = links.filter(([, path, anchor]) => {
      const page = path === '' ? name : posix.join(posix.dirname(name), path!)
      return page.endsWith('.md') && !anchors(read(page)).includes(anchor!)
    })
    expect(wrong.map(([link]) => link)).toEqual([])
  })
})

describe('docs/architecture.md', () => {
  const text = read('docs/architecture.md')

  it.each(['listener', 'change', 'connection'])(
    'shows the path of a %s in five steps, each with its files',
    what => {
      const [, path = ''] = text.split(`## The path of a ${what}\n`)
      const steps = path.split('\n## ')[0]!.trim().split('\n')
      expect(steps.map(step => step.slice(0, 3))).toEqual(['1. ', '2. ', '3. ', '4. ', '5. '])
      for (const step of steps) expect(filesNamed(step).filter(path => path.endsWith('.ts'))).not.toEqual([])
    },
  )

  it('names functions, classes and tables that are in their files', () => {
    const named = [...text.matchAll(/((?:`#?\w+(?:\(\))?`(?: and )?)+) in `(src\/[\w/.-]+)`/g)]
    const places = named.flatMap(([, names, path]) =>
      [...names!.matchAll(/`(#?\w+)(\(\))?`/g)].map(([, name, call]) => ({ name, call, path: path! })),
    )
    expect(places.length).toBeGreaterThan(15)
    const defined = ({ name, call, path }: (typeof places)[number]) =>
      new RegExp(call ? `(?:function |^  )\\*?${name}\\(` : `^export (?:const|class) ${name}\\b`, 'm').test(
        read(path),
      )
    expect(places.filter(place => !defined(place))).toEqual([])
  })

  it('draws every room but those without an arrow of their own', () => {
    const [, drawing = ''] = /```mermaid\n(.*?)```/s.exec(text) ?? []
    const drawn = new Set([...drawing.matchAll(/^\s+([\w-]+)[[(]/gm)].map(([, name]) => name!))
    const quiet = new Set(['proto', 'errors', 'base', 'tls', 'cli'])
    expect(ROOMS.map(({ name }) => name).filter(name => !drawn.has(name) && !quiet.has(name))).toEqual([])
  })
})
