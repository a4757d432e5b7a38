import { fileURLToPath } from 'node:url'
import { expect, it, onTestFinished } from 'vitest'
import { thisFile } from '../../../src/base/lazy.js'

it('finds the file of the caller', () => {
  expect(thisFile()).toBe(fileURLToPath(import.meta.url))
})

it('finds it also if the program has frozen Error (--frozen-intrinsics)', () => {
  const names = ['stackTraceLimit', 'prepareStackTrace'] as const
  for (const name of names) {
    const before = Object.getOwnPropertyDescriptor(Error, name)
    onTestFinished(() => {
      Reflect.deleteProperty(Error, name)
      if (before !== undefined) Object.defineProperty(Error, name, before)
    })
    const value = name === 'stackTraceLimit' ? 10 : undefined
    Object.defineProperty(Error, name, { configurable: true, writable: false, value })
  }
  expect(thisFile()).toBe(fileURLToPath(import.meta.url))
})
