/* Runs in the user's process, once, inside Frida: replaces each function of the layer's table in place, so that the
 * calls that libc makes inside itself are caught as well as the program's.
 *
 * A function's first instructions are moved to the layer's own room, followed by a jump to the rest (that is its
 * original, which the hooks call), and in their place goes a jump to the replacement. This is done with Frida's
 * assembler but without its Interceptor: so nothing of it depends on Frida afterwards, and Frida can leave the process
 * altogether, with its threads, descriptors and memory.
 *
 * Meanwhile the process waits in the layer's constructor, in system calls that are not libc's, and its hooks are
 * not active: they pass everything on. */
'use strict';

const LIBRARY = Process.getModuleByName('libmirror_layer.so');
const POINTER = Process.pointerSize;
const ROW_BYTES = 5 * POINTER;
const ROOM_ALIGNMENT = 16;
/* No function's first instructions need more than this when they are moved. */
const MOVED_MAX_BYTES = 256;

/* x86-64: a near jump, which reaches 2 GiB. */
const X86 = {
  patchBytes: 5,
  reach: ptr(0x7fff0000),
  Writer: globalThis.X86Writer,
  Relocator: globalThis.X86Relocator,
  writePatch(writer, destination) {
    writer.putJmpAddress(destination);
  },
  writeJump(writer, destination) {
    writer.putJmpAddress(destination);
  },
};

/* aarch64: BTI c, where an indirect call may land and which older processors take for a no-op, then a branch, which
 * reaches 128 MiB. */
const ARM64 = {
  patchBytes: 8,
  reach: ptr(0x7ff0000),
  Writer: globalThis.Arm64Writer,
  Relocator: globalThis.Arm64Relocator,
  writePatch(writer, destination) {
    writer.putInstruction(0xd503245f);
    writer.putBImm(destination);
  },
  writeJump(writer, destination) {
    writer.putLdrRegAddress('x16', destination);
    writer.putBrReg('x16');
  },
};

const MACHINE = Process.arch === 'arm64' ? ARM64 : X86;

const room = LIBRARY.getExportByName('mirror_room').readPointer();
const roomEnd = room.add(LIBRARY.getExportByName('mirror_room').add(POINTER).readU32());
let roomNext = room;

function readTable() {
  const rows = [];
  for (let at = LIBRARY.getExportByName('mirror_hooks'); ; at = at.add(ROW_BYTES)) {
    const symbol = at.add(POINTER).readPointer();
    if (symbol.isNull()) {
      return rows;
    }
    rows.push({
      symbol: symbol.readUtf8String(),
      replacement: at.add(2 * POINTER).readPointer(),
      original: at.add(3 * POINTER).readPointer(),
      target: at.add(4 * POINTER).readPointer(),
    });
  }
}

function isNear(from, to) {
  const distance = from.compare(to) < 0 ? to.sub(from) : from.sub(to);
  return distance.compare(MACHINE.reach) < 0;
}

/* Code written to the room; its address. */
function writeToRoom(write) {
  const start = roomNext;
  if (room.isNull() || roomEnd.sub(start).toUInt32() < MOVED_MAX_BYTES) {
    throw new Error('there is no room for it near libc');
  }
  const writer = new MACHINE.Writer(start, { pc: start });
  write(writer);
  writer.flush();
  roomNext = start.add(Math.ceil(writer.offset / ROOM_ALIGNMENT) * ROOM_ALIGNMENT);
  writer.dispose();
  return start;
}

/* What was the function: its first instructions, moved, and a jump to the rest. `row.size` gets their bytes. */
function moveBeginning(row) {
  const target = row.target;
  return writeToRoom((writer) => {
    const relocator = new MACHINE.Relocator(target, writer);
    let taken = 0;
    while (taken < MACHINE.patchBytes) {
      const total = relocator.readOne();
      if (total === 0) {
        throw new Error('it is too short');
      }
      taken = total;
    }
    row.size = taken;
    relocator.writeAll();
    if (!relocator.eoi) {
      MACHINE.writeJump(writer, target.add(taken));
    }
    relocator.dispose();
  });
}

function prepare(row) {
  const moved = moveBeginning(row);
  if (!row.original.isNull()) {
    row.original.writePointer(moved);
  }
  row.destination = isNear(row.target, row.replacement)
    ? row.replacement
    : writeToRoom((writer) => MACHINE.writeJump(writer, row.replacement));
  if (!isNear(row.target, row.destination)) {
    throw new Error('the layer is too far from it');
  }
}

function patch(row) {
  Memory.patchCode(row.target, MACHINE.patchBytes, (code) => {
    const writer = new MACHINE.Writer(code, { pc: row.target });
    MACHINE.writePatch(writer, row.destination);
    writer.flush();
    writer.dispose();
  });
}

/* One instruction's bytes as they are to be written elsewhere, and the place of the 32-bit distance among them (0: it
 * has none), with the address that it means. Throws where that cannot be. */
function rewrite(instruction) {
  const bytes = Array.from(new Uint8Array(instruction.address.readByteArray(instruction.size)));
  const branches = instruction.groups.some((group) => ['jump', 'call', 'branch_relative'].includes(group));
  const constant = instruction.operands.find(({ type }) => type === 'imm');
  if (Process.arch === 'arm64') {
    const isLiteral = instruction.mnemonic.startsWith('ldr') && !instruction.opStr.includes('[');
    if (branches || isLiteral || instruction.mnemonic.startsWith('adr')) {
      throw new Error(`${instruction} cannot be moved by recipe`);
    }
    return { bytes, place: 0 };
  }
  if (branches && constant !== undefined) {
    const destination = ptr(constant.value.toString());
    if (bytes.length === 2 && bytes[0] >= 0x70 && bytes[0] <= 0x7f) {
      return { bytes: [0x0f, bytes[0] + 0x10, 0, 0, 0, 0], place: 2, destination };
    }
    if (bytes.length === 2 && bytes[0] === 0xeb) {
      return { bytes: [0xe9, 0, 0, 0, 0], place: 1, destination };
    }
    if (bytes.length >= 5) {
      return { bytes, place: bytes.length - 4, destination };
    }
    throw new Error(`${instruction} cannot be moved by recipe`);
  }
  const memory = instruction.operands.find(({ type, value }) => type === 'mem' && value.base === 'rip');
  if (memory === undefined) {
    return { bytes, place: 0 };
  }
  const view = new DataView(instruction.address.readByteArray(instruction.size));
  for (let place = bytes.length - 4; place > 0; place -= 1) {
    if (view.getInt32(place, true) === memory.value.disp) {
      return { bytes, place, destination: instruction.next.add(memory.value.disp) };
    }
  }
  throw new Error(`${instruction} cannot be moved by recipe`);
}

/* The recipe by which the layer itself moves the row's instructions in another process with this libc (recipe.c): their
 * bytes, the bytes to be written, and for each 32-bit distance in these its place, and its value if both were at
 * the same address. */
function describe(row) {
  if (row.isCopy) {
    throw new Error('there is a second copy in libpthread');
  }
  const found = Array.from(new Uint8Array(row.target.readByteArray(row.size)));
  const moved = [];
  const distances = [];
  for (let offset = 0; offset < row.size; ) {
    const instruction = Instruction.parse(row.target.add(offset));
    const { bytes, place, destination } = rewrite(instruction);
    if (place !== 0) {
      const end = moved.length + bytes.length;
      distances.push([moved.length + place, destination.sub(row.target).sub(end).toInt32()]);
    }
    moved.push(...bytes);
    offset += instruction.size;
  }
  return [row.symbol, found, moved, distances];
}

/* The whole recipe; null where one row has none. To be made before anything is patched. */
function makeRecipe(rows) {
  let current = '';
  try {
    return rows.map((row) => {
      current = row.symbol;
      return describe(row);
    });
  } catch (error) {
    report.reason = `${current}: ${error.message}`;
    return null;
  }
}

function readLibcId() {
  const libc = LIBRARY.getExportByName('mirror_libc');
  return Array.from(new Uint8Array(libc.readByteArray(libc.add(32).readU32())));
}

/* Until glibc 2.34 programs with threads were bound to a second copy of open, close, connect and others. */
const libpthread = Process.findModuleByName('libpthread.so.0');

function withCopies(row) {
  const copy = libpthread === null ? null : libpthread.findExportByName(row.symbol);
  return copy === null ? [row] : [row, { ...row, target: copy, original: NULL, isCopy: true }];
}

const report = { installed: 0, absent: [], failed: [], libc: readLibcId(), recipe: null, reason: '' };
const taken = new Set();
const prepared = [];
for (const row of readTable().flatMap(withCopies)) {
  const address = row.target.toString();
  if (row.target.isNull()) {
    report.absent.push(row.symbol);
  } else if (!taken.has(address)) {
    taken.add(address);
    try {
      prepare(row);
      prepared.push(row);
    } catch (error) {
      report.failed.push({ symbol: row.symbol, reason: error.message });
    }
  } else if (!row.original.isNull()) {
    report.failed.push({ symbol: row.symbol, reason: 'a row before it has the same address: make it an ALIAS' });
  }
}
/* From the first patch on the originals may be called. */
if (!room.isNull()) {
  Memory.protect(room, roomEnd.sub(room).toUInt32(), 'r-x');
}
if (report.failed.length === 0) {
  report.recipe = makeRecipe(prepared);
  prepared.forEach(patch);
  report.installed = prepared.length;
}
send(report);
