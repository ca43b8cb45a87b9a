# Into a case and back. r15 = the save area throughout; offsets are those of `Area`.
    .globl lowmem_diff_enter
lowmem_diff_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov r15, rdi
    mov [r15 + 80], rsp
    mov eax, [r15 + 44]         # SS, ESP, EFLAGS, CS, EIP for iretq
    push rax
    mov eax, [r15 + 16]
    push rax
    mov eax, [r15 + 36]
    push rax
    mov eax, [r15 + 40]
    push rax
    mov eax, [r15 + 32]
    push rax
    mov eax, [r15 + 48]
    mov ds, eax
    mov eax, [r15 + 52]
    mov es, eax
    mov eax, [r15 + 56]
    mov fs, eax
    mov eax, [r15 + 60]
    mov gs, eax
    mov eax, [r15 + 0]
    mov ecx, [r15 + 4]
    mov edx, [r15 + 8]
    mov ebx, [r15 + 12]
    mov ebp, [r15 + 20]
    mov esi, [r15 + 24]
    mov edi, [r15 + 28]
    iretq

    .globl lowmem_diff_exit     # from the stub at EXIT: the case's registers, in 64-bit mode
lowmem_diff_exit:
    mov [r15 + 0], eax
    mov [r15 + 4], ecx
    mov [r15 + 8], edx
    mov [r15 + 12], ebx
    mov [r15 + 16], esp
    mov [r15 + 20], ebp
    mov [r15 + 24], esi
    mov [r15 + 28], edi
    mov rsp, [r15 + 80]
    pushfq
    pop rax
    mov [r15 + 36], eax
    mov eax, ss
    mov [r15 + 44], eax
    mov eax, ds
    mov [r15 + 48], eax
    mov eax, es
    mov [r15 + 52], eax
    mov eax, fs
    mov [r15 + 56], eax
    mov eax, gs
    mov [r15 + 60], eax
    mov dword ptr [r15 + 64], -1

    .globl lowmem_diff_back     # also from the signal handler, everything saved
lowmem_diff_back:
    mov rsp, [r15 + 80]
    push 2                      # DF, TF, AC, NT off
    popfq
    mov eax, 0x2b
    mov ss, eax
    mov ds, eax
    mov es, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rax, [r15 + 88]
    cmp qword ptr [r15 + 96], 0
    je 1f
    wrfsbase rax
    jmp 2f
1:  mov rsi, rax                # arch_prctl(ARCH_SET_FS, base)
    mov edi, 0x1002
    mov eax, 158
    syscall
2:  pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
