# Entry and exit of a kernel with page tables of its own (RHEL's 4G/4G, in own words): this text is mapped in the top 16 MB that
# both page tables share, and linked to run there.
#
# Entry: the CPU pushes on the virtual stack, a second mapping of the task's stack in the shared top. The frame is completed
# there; then CR3 gets the kernel's table and esp the same place of the real stack. An interrupt that finds the kernel on a
# real stack switches nothing. Exit to user mode is the reverse, also for a frame that was interrupted inside a return window:
# there CPL is 0, but the user's table is (half) in place.

.set SWAPPER, 0x1c800
.set SHARED_TOP, 0xff000000
# thread_info, at the low end of either stack.
.set TI_REAL_STACK, 16
.set TI_VIRTUAL_STACK, 20
.set TI_USER_PGD, 24

# Changes ebx, ecx, edx, which the frame holds.
.macro TO_REAL_STACK
    cmpl $SHARED_TOP, %esp
    jb 1f
    movl %esp, %ecx
    movl %esp, %ebx
    andl $-THREAD_SIZE, %ecx
    andl $(THREAD_SIZE - 1), %ebx
    addl TI_REAL_STACK(%ecx), %ebx
    movl $SWAPPER, %edx
    movl %edx, %cr3
    movl %ebx, %esp
1:
.endm

# Leaves the user's table in edx, and esp on the virtual stack. Changes ebx, ecx.
.macro TO_VIRTUAL_STACK
    movl %esp, %ebx
    movl %esp, %ecx
    andl $-THREAD_SIZE, %ebx
    andl $(THREAD_SIZE - 1), %ecx
    addl TI_VIRTUAL_STACK(%ebx), %ecx
    movl TI_USER_PGD(%ebx), %edx
    movl %ecx, %esp
.endm

    .section .trampoline, "ax"
    .balign 4096
    .globl trampoline_start
trampoline_start:
    EXCEPTION_STUBS
exception:
    pushl %ds
    SAVE_REGISTERS
    cld
    # The vector lies where es belongs.
    movl %es, %ecx
    movl F_ES(%esp), %edi
    movl %ecx, F_ES(%esp)
    movl $USER_DS, %ecx
    movl %ecx, %ds
    movl %ecx, %es
    TO_REAL_STACK
    HANDLE %edi

    .balign 16
    .globl system_call
system_call:
    pushl %eax
    SAVE_ALL
    TO_REAL_STACK
    HANDLE $0x80

.macro INTERRUPT name:req, vector:req
    .balign 16
    .globl \name
\name:
    pushl $(\vector - 256)
    SAVE_ALL
    TO_REAL_STACK
    HANDLE $\vector
.endm
    INTERRUPT tick_stub, 0x20
    INTERRUPT resched_stub, 0x21
    INTERRUPT unmap_stub, 0x22

    .balign 16
    .globl leave_kernel
leave_kernel:
    movl %eax, %esp
    movl F_EIP(%esp), %ecx
    cmpl $return_window, %ecx
    jb 2f
    cmpl $return_window_end, %ecx
    jb 3f
2:  cmpl $sysexit_window, %ecx
    jb 2f
    cmpl $sysexit_window_end, %ecx
    jb 3f
2:  testb $3, F_CS(%esp)
    jz kernel_return
3:  TO_VIRTUAL_STACK
return_window:
    movl %edx, %cr3
kernel_return:
    RESTORE_ALL
return_window_end:

    .balign 16
    .globl sysenter_entry
sysenter_entry:
    movl TSS_ESP0(%esp), %esp
    sti
    pushl $USER_DS
    pushl %ebp
    pushfl
    pushl $USER_CS
    pushl $SYSENTER_RETURN
    pushl %eax
    SAVE_ALL
    TO_REAL_STACK
    movl %esp, %ebp
    pushl $0x100
    pushl %ebp
    call kernel_main
    # Another task's frame is left by iret, as is a task that was switched away from.
    cmpl %ebp, %eax
    jne leave_kernel
    movl %ebp, %esp
    TO_VIRTUAL_STACK
sysexit_window:
    movl %edx, %cr3
    movl F_EBX(%esp), %ebx
    movl F_ESI(%esp), %esi
    movl F_EDI(%esp), %edi
    movl F_EAX(%esp), %eax
    movl F_EIP(%esp), %edx
    movl F_ESP(%esp), %ecx
    xorl %ebp, %ebp
    sti
    sysexit
sysexit_window_end:
    .globl trampoline_end
trampoline_end:

    .section .text.user_copy, "ax"
    USER_COPY
    BOOT_START 0x02000000, 0, 16
